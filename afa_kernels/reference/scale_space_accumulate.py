"""rendered += T m pred and T *= 1 - m, with m and pred resized bilinearly to the output."""

from __future__ import annotations

from torch import Tensor

from afa_kernels.reference._resize import resized


def scale_space_accumulate(
    rendered: Tensor, transmittance: Tensor | None, prediction: Tensor, weight: Tensor, first: bool
) -> None:
    size = rendered.shape[2], rendered.shape[3]
    share = resized(weight, size)
    if first:
        rendered.zero_()
        if transmittance is not None:
            transmittance.fill_(1)
    if transmittance is not None:
        opacity, share = share, transmittance * share
        transmittance.mul_(1 - opacity)
    rendered.add_(share * resized(prediction.to(rendered.dtype), size))
