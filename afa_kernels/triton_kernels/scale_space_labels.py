"""scale_space_labels in Triton: the labels of _labels.py, of predictions weighed by maps."""

from __future__ import annotations

from torch import Tensor

from afa_kernels.triton_kernels import _labels
from afa_kernels.triton_kernels._launch import sized, split_batch
from afa_kernels.triton_kernels._weights import make_maps


@sized(predictions="ncxy", logits="nkxy", outputs="nhw")
@split_batch()
def forward(
    predictions: list[Tensor],
    logits: Tensor,
    phi: str,
    opaque_last: bool,
    resize_opacities: bool,
    value: str,
    outputs: list[Tensor],
) -> None:
    if value not in ("none", "score", "probability"):
        raise ValueError(f"value must be none, score or probability, got {value!r}")
    labels, values = outputs[0], outputs[1] if value != "none" else None
    maps = make_maps(predictions, logits, phi, opaque_last, resize_opacities)
    _labels.forward(predictions, maps, opaque_last, resize_opacities, value == "probability", labels, values)
