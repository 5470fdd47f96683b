"""The least that a pass over tensors moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from afa_kernels.testing import Case, tensors


def size(given: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in given)


def once(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor]) -> dict[str, int]:
    """Inputs read once and outputs written once; backward reads the inputs and the gradients of the outputs."""
    return _times(1, case, arguments, outputs)


def with_statistics(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor]) -> dict[str, int]:
    """In training the statistics need a reading of their own, and so do the sums of the backward pass."""
    return _times(2 if case.options["training"] else 1, case, arguments, outputs)


def pooled(case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor]) -> dict[str, int]:
    """As `once`, but the backward pass of a pooling does not read the map, the first argument, again."""
    found = once(case, arguments, outputs)
    return {**found, "backward": found["backward"] - size(arguments[:1])}


def of_gates(logits: Sequence[Any], training: bool) -> int:
    """Two values for every logit, written first and read back for each channel, which counts once."""
    return (2 if training else 1) * 4 * size(tensors(logits))


def _times(readings: int, case: Case, arguments: Sequence[Any], outputs: Sequence[Tensor]) -> dict[str, int]:
    grads, written = size(tensors(arguments)), size(outputs)
    read = grads + size(o for o in case.options.values() if isinstance(o, Tensor))
    return {"forward": readings * read + written, "backward": readings * (written + read) + grads}
