"""Every operation, on every backend of the session, over the table of cases: values, formats and bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from cases import CASES
from support.guard_bands import GuardBands
from support.parts import THOROUGH, over, roles
from support.recorder import backward_stems, stems
from support.session import INTERPRETED, has_kernel
from torch import Tensor

from afa_kernels import backends, layout
from afa_kernels.testing import (
    DEVICE,
    Case,
    Dtypes,
    check,
    differentiable,
    gradients,
    operation,
    tensors,
    with_tensors,
    written,
)

pytestmark = [pytest.mark.usefixtures("poisoned"), pytest.mark.device]

# On a GPU every element type of the thorough cases alone: each takes compilations of its own.
VALUES = [(c, dtypes) for c in CASES for dtypes in (c.dtypes if DEVICE == "cpu" or c.thorough else c.dtypes[:1])]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The kernels that a test launches, all on the backend that was asked for."""
    names: set[str] = set()
    launcher = backends.launcher

    def record(op: str, device_type: str, backend: str | None) -> Callable[..., None]:
        assert backend == backends._forced
        names.add(op)
        return launcher(op, device_type, backend)

    monkeypatch.setattr(backends, "launcher", record)
    return names


@over(VALUES, "case, dtypes", all_interpreted=True)
def test_values(case: Case, dtypes: Dtypes, backend: str, guards: GuardBands, launched: set[str]) -> None:
    """Outputs and gradients against the float64 oracle; their types and memory formats."""
    if INTERPRETED and {torch.float64, torch.bfloat16} <= set(dtypes if isinstance(dtypes, tuple) else ()):
        pytest.skip(
            "Triton's interpreter reads a float64 as an integer to make a bfloat16 of it; tests/ttsem has the case"
        )
    arguments = case.inputs(dtypes)
    inputs = [guards.around(t) for t in tensors(arguments)]
    arguments = with_tensors(arguments, inputs)
    before = [t.clone() for t in inputs]
    with guards:
        outputs, grads = check(case, arguments, backend)
    assert launched == (kernels(case, backend) if outputs[0].numel() > 0 else set())
    if backend != "reference":
        made = len(outputs) + (len(grads) > 0) if launched else 0
        assert len(guards.buffers) >= len(inputs) + made, "the results have no guard bands"
        assert_formats(case, inputs, outputs, grads)
    for t, original in zip(inputs, before, strict=True):
        assert torch.equal(t.nan_to_num(7.0), original.nan_to_num(7.0)), "an input was written to"


def kernels(case: Case, backend: str) -> set[str]:
    """What the two passes of the case launch."""
    if backend == "reference":
        return set()
    moved = case.options.get("training") and case.options["running_mean"] is not None
    forward = [f"{stem}_forward" for stem in (*stems(case), *(["move_running_statistics"] if moved else []))]
    backward = [f"{stem}_backward" for stem in backward_stems(case)]
    return {op for op in (*forward, *backward) if has_kernel(backend, op)}


def assert_formats(case: Case, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    """The memory format of the first feature map, for maps; contiguous, for attention; a parameter's own strides."""
    role = roles(case)
    for i, (grad, x) in enumerate(zip(grads, inputs)):
        if role[i] == "parameter":
            assert grad.stride() == x.stride(), f"gradient {i}"
            continue
        a_part = case.op.startswith("scale_space") and isinstance(case.shapes[-1], list) and role[i] == "attention"
        if x.dtype == outputs[0].dtype and not a_part:  # of the gradient of concatenated logits
            assert grad.stride() == strides_of(grad, inputs[0] if role[i] == "feature" else None), f"gradient {i}"
    if backends.made_of_aten(case.op):
        return  # the outputs of a convolution are as ATen has them
    for i, out in enumerate(outputs):
        of_norm = "parameter" in role and not case.op.startswith("upsampled")
        is_map = role[0] == "feature" and not of_norm and out.dim() == 4 and out.shape[1] > 1
        assert out.stride() == strides_of(out, inputs[0] if is_map else None), f"output {i}"


def strides_of(t: Tensor, like: Tensor | None) -> tuple[int, ...]:
    memory_format = torch.contiguous_format if like is None else layout.memory_format(like)
    return torch.empty(t.shape, memory_format=memory_format).stride()


@over(THOROUGH)
def test_deterministic(case: Case, backend: str) -> None:
    """The same bits in every run, whether or not PyTorch must be deterministic; on cpu with any number of threads.

    A convolution of ATen's has other bits with other threads.
    """
    settings = ((torch.get_num_threads(), True), (torch.get_num_threads(), False), (1, False), (2, False), (5, False))
    arguments = case.inputs(torch.float32)
    wanted = [differentiable(case.op)] * len(tensors(arguments))

    def run() -> list[Tensor]:
        outputs = case.outputs(arguments, backend)
        return [*outputs, *gradients(lambda a: case.outputs(a, backend), arguments, wanted=wanted)]

    first = run()
    threads = torch.get_num_threads()
    try:
        any_threads = backend == "cpu" and not backends.made_of_aten(case.op)
        for count, deterministic in settings if any_threads else settings[:2]:
            torch.set_num_threads(count)
            torch.use_deterministic_algorithms(deterministic)
            assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True)), (count, deterministic)
    finally:
        torch.set_num_threads(threads)


@over([case for case in THOROUGH if written(case.op)])
def test_in_place(case: Case, backend: str) -> None:
    """What an operation writes to lies where it lay, and the operation returns the first of it."""
    arguments = case.inputs(torch.float32)
    expected = case.outputs(arguments, backend)
    given = with_tensors(arguments, [t.clone() for t in tensors(arguments)])
    places = [t.data_ptr() for t in tensors(given)]
    result = case.bind(operation(case.op))(*given)
    assert result is given[0] and [t.data_ptr() for t in tensors(given)] == places
    for changed, e in zip(given, expected):
        assert torch.equal(changed, e)
