"""Triton kernels and their launchers; imported only when a backend choice asks for them."""
