"""Test an operation as those of afa_kernels are tested: cases, layouts, an error budget, meters of memory and time.

A case is one call: shapes, layouts, element types, planted values, and the corner it covers. What answers is plain
PyTorch: in float64 on the very numbers the operation was given it is the oracle, and in their own types it measures
the error that is allowed. So no tolerance is guessed.

An operation of your own, here x times its sigmoid, with `plain` as what it must compute:

    >>> import torch
    >>> from afa_kernels.testing import Case, compare, peak_bytes, saved_bytes
    >>> fast, plain = torch.nn.functional.silu, lambda x: x * x.sigmoid()
    >>> for layout in ("contiguous", "channels_last", "sliced"):
    ...     case = Case("silu", f"prime sizes, {layout}", ((2, 3, 5, 7),), layouts=(layout,))
    ...     for dtype in case.dtypes:
    ...         outputs, gradients = compare(fast, plain, case.inputs(dtype), str(case))

`compare` raises an AssertionError that says which output or gradient is off, by how much, and what was allowed. The
meters are exact on the CPU, and tell on a GPU what its allocator does:

    >>> x = torch.randn(1000, requires_grad=True)
    >>> saved_bytes(lambda: fast(x)), saved_bytes(lambda: plain(x))
    (4000, 8000)

A case of an operation of afa_kernels knows how to call it, on any backend; `check` compares that with the reference:

    >>> from afa_kernels.testing import check
    >>> shape = (2, 3, 5, 7)
    >>> case = Case("attentive_fusion", "prime sizes", (shape, shape, (2, 1, 5, 7), (2, 3, 1, 1)))
    >>> outputs, gradients = check(case, case.inputs(torch.float32), "reference")
    >>> [tuple(g.shape) for g in gradients]
    [(2, 3, 5, 7), (2, 3, 5, 7), (2, 1, 5, 7), (2, 3, 1, 1)]
"""

from afa_kernels.testing.budget import (
    UNITS,
    UNITS_OF_ARITHMETIC,
    UNITS_OF_EAGER,
    check,
    compare,
    disagreement,
    doubled,
)
from afa_kernels.testing.case import (
    DEVICE,
    DTYPES,
    Case,
    Dtypes,
    Shape,
    both_passes,
    cotangents,
    differentiable,
    gradients,
    listed,
    operation,
    operations,
    tensors,
    with_tensors,
    written,
)
from afa_kernels.testing.layouts import LAYOUTS
from afa_kernels.testing.meters import alternate, peak_bytes, saved_bytes, saved_storages

__all__ = [
    "DEVICE",
    "DTYPES",
    "LAYOUTS",
    "UNITS",
    "UNITS_OF_ARITHMETIC",
    "UNITS_OF_EAGER",
    "Case",
    "Dtypes",
    "Shape",
    "alternate",
    "both_passes",
    "check",
    "compare",
    "cotangents",
    "differentiable",
    "disagreement",
    "doubled",
    "gradients",
    "listed",
    "operation",
    "operations",
    "peak_bytes",
    "saved_bytes",
    "saved_storages",
    "tensors",
    "with_tensors",
    "written",
]
