"""scale_space_cross_entropy in Triton: the cross-entropy of _cross_entropy.py, of predictions weighed by maps."""

from __future__ import annotations

from torch import Tensor

from afa_kernels.triton_kernels import _cross_entropy
from afa_kernels.triton_kernels._launch import sized, split_batch, spread
from afa_kernels.triton_kernels._weights import make_maps, maps_backward


@sized(predictions="ncxy", logits="nkxy", target="nhw", weight="c", losses="nhw")
@split_batch("weight", "smoothing")
def forward(
    predictions: list[Tensor],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    smoothing: Tensor | None,
    ignore_index: int,
    phi: str,
    opaque_last: bool,
    resize_opacities: bool,
    losses: Tensor,
    lse: Tensor,
) -> None:
    maps = make_maps(predictions, logits, phi, opaque_last, resize_opacities)
    how = weight, smoothing, ignore_index, opaque_last, resize_opacities
    _cross_entropy.forward(predictions, maps, target, *how, losses, lse)


@sized(grad="nhw", predictions="ncxy", logits="nkxy", target="nhw", weight="c", lse="nhw")
@split_batch("weight", "smoothing")
def backward(
    grad: Tensor,
    predictions: list[Tensor],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    smoothing: Tensor | None,
    lse: Tensor,
    ignore_index: int,
    phi: str,
    opaque_last: bool,
    resize_opacities: bool,
    needed: list[bool],
    grads: list[Tensor],
) -> None:
    *grad_predictions, grad_logits = spread(grads, needed)
    maps = make_maps(predictions, logits, phi, opaque_last, resize_opacities)
    grad_maps = None
    if grad_logits is not None:
        grad_maps = maps.new_empty((*maps.shape[:2], *grad.shape[1:]))
    classes = target, weight, smoothing, lse, ignore_index
    _cross_entropy.backward(
        grad, predictions, maps, *classes, opaque_last, resize_opacities, grad_predictions, grad_maps
    )
    if grad_logits is not None and grad_maps is not None:
        maps_backward(grad_maps, maps, logits, phi, opaque_last, resize_opacities, grad_logits)
