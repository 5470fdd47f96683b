"""The kernels of csrc/cuda without a GPU: what is launched, and what a thread of it executes."""
