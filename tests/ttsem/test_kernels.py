"""Every Triton kernel over the table of cases: values, memory and races."""

from __future__ import annotations

import pytest
import torch
from ttsem import sanitize

import afa_kernels
from afa_kernels.testing import CASES, Case, Dtypes, check
from afa_kernels.triton_kernels import _launch

VALUES_ONLY = (
    "saturated",
    "NaN",
    "a list",
    "sixteen scales by",
    "sixteen inputs",
)  # corners that move no address: left to the interpreter
CHOSEN = [
    (case, dtypes)
    for case in CASES
    for dtypes in (case.dtypes if case.thorough or case.op == "attentive_fusion" else case.dtypes[-1:])
    if not case.covers.startswith(VALUES_ONLY)
]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case, dtypes", CHOSEN, ids=str)
def test_values(case: Case, dtypes: Dtypes, checked: sanitize.Session) -> None:
    outputs, _ = check(case, case.inputs(dtypes), "triton")
    assert checked.launches > 0 or outputs[0].numel() == 0


def images(case: Case) -> int:
    first = case.shapes[0]
    return first[0][0] if isinstance(first, list) else first[0]


IN_PARTS = {case.op: case for case in reversed(CASES) if images(case) > 1}


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case", IN_PARTS.values(), ids=str)
def test_a_batch_in_parts(case: Case, checked: sanitize.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a batch larger than an axis of the grid is launched."""
    check(case, case.inputs(torch.float64), "triton")
    whole, batch = checked.launches, images(case)
    monkeypatch.setattr(_launch, "MOST_IMAGES", batch - 1)
    check(case, case.inputs(torch.float64), "triton")
    assert checked.launches - whole > whole
    assert IN_PARTS.keys() == {case.op for case in CASES}


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case", [case for case in CASES if case.op == "scale_space_render" and case.thorough], ids=str)
def test_labels(case: Case, checked: sanitize.Session) -> None:
    rendered = case(case.inputs(torch.float64), "reference")[0]
    labels, values = afa_kernels.scale_space_labels(*case.inputs(torch.float64), **case.options, value="probability")
    assert checked.launches > 0
    assert torch.equal(labels, rendered.argmax(1))
    torch.testing.assert_close(values, rendered.softmax(1).max(1).values)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case", [case for case in CASES if case.op == "scale_space_render" and case.thorough], ids=str)
@pytest.mark.parametrize("resize", ["weights", "opacities"])
def test_renderer(case: Case, resize: str, checked: sanitize.Session) -> None:
    predictions, logits = case.inputs(torch.float64)
    options = {**case.options, "resize": resize, "size": case.options.get("size", tuple(predictions[-1].shape[2:]))}
    renderer = afa_kernels.ScaleSpaceRenderer(**options)
    for k, prediction in enumerate(predictions):
        renderer.add(prediction, logits[:, k : k + 1])
    assert checked.launches >= len(predictions)
    with afa_kernels.use_backend("reference"):
        torch.testing.assert_close(renderer.render(), afa_kernels.scale_space_render(predictions, logits, **options))
