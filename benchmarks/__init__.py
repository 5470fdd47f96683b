"""Benchmarks of afa_kernels against eager PyTorch and torch.compile; see README.md beside this file."""
