"""Plain PyTorch, any dtype, any device: the specification the kernels answer to, and a backend one can select."""
