"""Operations made of ATen's own kernels, where that is the fast way; on every device."""
