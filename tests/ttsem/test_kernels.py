"""Every Triton kernel over the table of cases: values, memory and races.

Where nothing has changed since all of it passed (`support.proofs`), it is skipped; `make gate` runs it.
"""

from __future__ import annotations

import pytest
import torch
from cases import CASES
from support import proofs
from support.session import on_triton
from ttsem import sanitize

import afa_kernels
from afa_kernels.testing import Case, Dtypes, check
from afa_kernels.triton_kernels import _cross_entropy, _launch, _resize, scale_space_cross_entropy

pytestmark = pytest.mark.skipif(
    proofs.passed("ttsem"), reason="the kernels are those that ttsem has passed: make gate runs it"
)
VALUES_ONLY = (
    "saturated",
    "NaN",
    "a list",
    "sixteen scales by",
    "sixteen inputs",
)  # corners that move no address: left to the interpreter
KERNELS = [case for case in CASES if on_triton(case.op)]
CHOSEN = [
    (case, dtypes)
    for case in KERNELS
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


SPLIT = {case.op: case for case in reversed(KERNELS) if images(case) > 1}


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case", SPLIT.values(), ids=str)
def test_a_batch_that_is_split(case: Case, checked: sanitize.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a batch larger than an axis of the grid is launched."""
    check(case, case.inputs(torch.float64), "triton")
    whole, batch = checked.launches, images(case)
    monkeypatch.setattr(_launch, "MOST_IMAGES", batch - 1)
    check(case, case.inputs(torch.float64), "triton")
    assert checked.launches - whole > whole
    assert SPLIT.keys() == {case.op for case in KERNELS}


@pytest.mark.parametrize("upstream", [float("inf"), float("nan")])
@pytest.mark.parametrize("resize", ["weights", "opacities"])
@pytest.mark.usefixtures("poisoned", "checked")
def test_an_ignored_pixel_has_no_gradient(upstream: float, resize: str) -> None:
    """Whatever reaches its loss, as in a batch of which every pixel is ignored."""
    torch.manual_seed(0)
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((2, 3, 2, 2), (2, 3, 4, 5), (2, 2, 2, 2))]
    target = torch.randint(3, (2, 4, 5))
    target[0, 1:3, ::2] = -100
    target[1] = -100

    def gradients(of_ignored: float, of_others: float) -> tuple[torch.Tensor, ...]:
        losses = afa_kernels.scale_space_cross_entropy(leaves[:2], leaves[2], target, reduction="none", resize=resize)
        grad = torch.where(target == -100, of_ignored, of_others).to(losses.dtype)
        return torch.autograd.grad(losses, leaves, grad)

    for found, expected in zip(gradients(upstream, 1.0), gradients(0.0, 1.0), strict=True):
        assert torch.equal(found, expected)
    assert not any(found.any() for found in gradients(upstream, 0.0))


@pytest.mark.parametrize("dtype, label, ignored", [(torch.uint8, 156, -100), (torch.int8, -100, 156)])
@pytest.mark.usefixtures("poisoned", "checked")
def test_labels_are_compared_in_64_bits(dtype: torch.dtype, label: int, ignored: int) -> None:
    """156 and -100 are the same 8 bits, and not the same class."""
    predictions, logits = [torch.randn(1, 160, 1, 2)], torch.randn(1, 1, 1, 2)
    target = torch.full((1, 1, 2), label, dtype=dtype)
    losses, lse = torch.empty(1, 1, 2), torch.empty(1, 1, 2)
    scale_space_cross_entropy.forward(
        predictions, logits, target, None, None, ignored, "abs", False, False, losses, lse
    )
    if label < 0:  # no class, and none to ignore: there is no loss to give
        assert losses.isnan().all()
    else:
        rendered = afa_kernels.scale_space_render(predictions, logits)
        torch.testing.assert_close(losses, torch.nn.functional.cross_entropy(rendered, target.long(), reduction="none"))


RESIZES = [
    ((3, 5), (9, 17)),
    ((3, 4), (12, 16)),
    ((9, 13), (4, 5)),
    ((7, 3), (5, 12)),
    ((3, 5), (3, 12)),
    ((3, 8), (11, 8)),
    ((3, 8), (3, 8)),
    ((1, 1), (3, 140)),
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size, size_out", RESIZES, ids=str)
@pytest.mark.usefixtures("poisoned", "checked")
def test_the_gradient_of_a_resize(
    size: tuple[int, int], size_out: tuple[int, int], format: torch.memory_format, weighted: bool
) -> None:
    """At once and in bands of rows, up and down and along one axis only; what one pixel has reaches what it reads."""
    torch.manual_seed(0)
    grad = torch.randn(2, 5, *size_out, dtype=torch.float64).contiguous(memory_format=format)
    weights = torch.rand(2, 3, *size_out, dtype=torch.float64) + 0.5 if weighted else None
    y, x = size_out[0] // 2, size_out[1] // 2
    y, x = y - (size_out[0] == 2 * y + 1), x - (size_out[1] == 2 * x + 1)  # off the middle, whose share may be zero

    def gathered(grad: torch.Tensor, band: int) -> torch.Tensor:
        out = torch.empty(2, 5, *size, dtype=grad.dtype).contiguous(memory_format=format)
        for (rows,), first, last in _cross_entropy.bands(size_out[0], [size[0]], band):
            if rows[0] < rows[1]:
                of_band = grad[:, :, first:last].contiguous(memory_format=format)
                _resize.gather(of_band, weights, 1, out, size_out[0], rows, first)
        return out

    def expected(grad: torch.Tensor) -> torch.Tensor:
        of_weights = 1.0 if weights is None else weights[:, 1:2]
        maps = torch.zeros(2, 5, *size, dtype=grad.dtype, requires_grad=True)
        resized = torch.nn.functional.interpolate(maps, size=size_out, mode="bilinear")
        return torch.autograd.grad(resized, maps, grad * of_weights)[0]

    one = torch.zeros_like(grad)
    one[1, 3, y, x] = 1.0
    for band in (size_out[0], 2):
        torch.testing.assert_close(gathered(grad, band), expected(grad))
        found = gathered(torch.where(one > 0, float("inf"), grad), band)
        assert torch.equal(found.isinf(), expected(one) > 0) and not found.isnan().any()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case", [case for case in CASES if case.op == "scale_space_render" and case.thorough], ids=str)
def test_labels(case: Case, checked: sanitize.Session) -> None:
    rendered = case.outputs(case.inputs(torch.float64), "reference")[0]
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
