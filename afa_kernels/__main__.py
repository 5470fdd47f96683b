"""`python -m afa_kernels`: what exists here, what was chosen, and for each missing part why and how to get it."""

from afa_kernels import backend_info

print(backend_info())
