"""Parts of operations that ATen's kernels make otherwise, by the compiled libraries.

A module has the functions of that of the same name in `triton_kernels`, and the native op whose kernel a library has if
it has these: FIRST. Other operations need no module: their native ops take what is prepared for every backend.
"""
