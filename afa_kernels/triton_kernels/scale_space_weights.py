"""scale_space_weights in Triton: T_i = exp(-sum_{j<i} d_j) and w_i = (1 - exp(-d_i)) T_i, with d_i = phi(y_i)."""

from __future__ import annotations

from torch import Tensor

from afa_kernels.triton_kernels._launch import sized, split_batch
from afa_kernels.triton_kernels._weights import weigh, weigh_backward


@sized(logits="nkhw", weights="nkhw", transmittance="n1hw")
@split_batch()
def forward(logits: Tensor, phi: str, opaque_last: bool, weights: Tensor, transmittance: Tensor) -> None:
    weigh(logits, phi, opaque_last, weights, transmittance)


@sized(logits="nkhw", grad_weights="nkhw", grad_transmittance="n1hw")
@split_batch()
def backward(
    grad_weights: Tensor | None,
    grad_transmittance: Tensor | None,
    logits: Tensor,
    phi: str,
    opaque_last: bool,
    grad_logits: Tensor,
) -> None:
    weigh_backward(grad_weights, grad_transmittance, logits, phi, opaque_last, grad_logits)
