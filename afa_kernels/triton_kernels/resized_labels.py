"""resized_labels in Triton: the labels of _labels.py, of one prediction that nothing weighs."""

from __future__ import annotations

from torch import Tensor

from afa_kernels.triton_kernels import _labels
from afa_kernels.triton_kernels._launch import sized, split_batch


@sized(logits="ncxy", labels="nhw")
@split_batch()
def forward(logits: Tensor, labels: Tensor) -> None:
    _labels.forward([logits], None, False, False, False, labels, None)
