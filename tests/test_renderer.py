"""ScaleSpaceRenderer: over the cases of scale_space_render against the reference, its memory, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import CASES
from torch import Tensor

import afa_kernels
from afa_kernels import ScaleSpaceRenderer
from afa_kernels.testing import Case, Dtypes, disagreement, doubled, peak_bytes

# Every case on the CPU; in Triton's interpreter, which is slow, the thorough ones. Not those of a list of logits, which
# have sizes of their own, nor those whose predictions shrink, which are refused.
RENDERS = [
    pytest.param(case, dtypes, marks=() if case.thorough else pytest.mark.once)
    for case in CASES
    if case.op == "scale_space_render" and not isinstance(case.shapes[1], list)
    if [h * w for *_, h, w in case.shapes[0]] == sorted(h * w for *_, h, w in case.shapes[0])
    for dtypes in case.dtypes[: 2 if case.thorough else 1]
]


def rendered_one_by_one(
    predictions: list[Tensor],
    logits: Tensor,
    size: tuple[int, int] | None = None,
    phi: str = "abs",
    background: str = "none",
    resize: str = "weights",
) -> ScaleSpaceRenderer:
    finest = max(predictions, key=lambda p: p.shape[2] * p.shape[3])
    renderer = ScaleSpaceRenderer(size or tuple(finest.shape[2:]), phi=phi, background=background, resize=resize)
    for k, prediction in enumerate(predictions):
        renderer.add(prediction, logits[:, k : k + 1], last=k == len(predictions) - 1)
    return renderer


@pytest.mark.parametrize("case, dtypes", RENDERS, ids=str)
def test_as_all_at_once(case: Case, dtypes: Dtypes, backend: str) -> None:
    if backend == "triton" and isinstance(dtypes, tuple) and {torch.float64, torch.bfloat16} <= set(dtypes):
        pytest.skip("Triton's interpreter reads a float64 as an integer to make a bfloat16 of it")
    arguments = case.inputs(dtypes)
    with afa_kernels.use_backend(backend):
        renderer = rendered_one_by_one(*arguments, **case.options)
        rendered = renderer.render()
    first = arguments[0][0].dtype
    assert rendered.dtype == (torch.float64 if first == torch.float64 else torch.float32)
    oracle = case.outputs(doubled(arguments), "reference")[0]
    eager = case.outputs(arguments, "reference")[0].to(rendered.dtype)
    reason = disagreement(rendered, oracle, eager, torch.float32)
    assert reason is None, reason


def test_opacities_and_transmittance(backend: str) -> None:
    """Two scales at the output's size: T_3 = exp(-d_1 - d_2), and 1 - sum of the weights after a resize."""
    predictions, logits = [torch.randn(1, 2, 2, 3, dtype=torch.float64)] * 2, torch.randn(1, 2, 2, 3).double()
    with afa_kernels.use_backend(backend):
        for resize in ("weights", "opacities"):
            renderer = rendered_one_by_one(predictions, logits, resize=resize)
            torch.testing.assert_close(renderer.transmittance, torch.exp(-logits.abs().sum(1, keepdim=True)))
        renderer = rendered_one_by_one([torch.ones(1, 1, 2, 3, dtype=torch.float64)] * 2, logits, size=(4, 9))
        torch.testing.assert_close(renderer.render(), 1 - renderer.transmittance)


def test_labels_and_early_stop(backend: str) -> None:
    """The first scale lets exp(-1) through, the second exp(-8)."""
    scores = torch.tensor([[1.0, 5.0, 5.0], [0.0, 0.0, 9.0]])
    with afa_kernels.use_backend(backend):
        renderer = ScaleSpaceRenderer((1, 2))
        assert not renderer.opaque()
        renderer.add(scores[:1].view(1, 3, 1, 1), torch.ones(1, 1, 1, 1))
        assert not renderer.opaque() and renderer.opaque(eps=0.4)
        assert renderer.labels().tolist() == [[[1, 1]]]
        renderer.add(scores[1:].view(1, 3, 1, 1), torch.full((1, 1, 1, 1), 7.0))
        assert renderer.opaque()
        labels, score = renderer.labels(value="score", dtype=torch.uint8)
        assert labels.tolist() == [[[2, 2]]] and labels.dtype == torch.uint8
        torch.testing.assert_close(score, renderer.render()[:, 2])
        before = renderer.render()
        kept = before.clone()
        renderer.reset()
        renderer.add(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, 1))
        assert torch.equal(before, kept) and not renderer.render().any()


@pytest.mark.once
@pytest.mark.parametrize("resize", ["weights", "opacities"])
def test_the_memory_of_one_scale(resize: str, kernel: str) -> None:
    predictions = [torch.randn(1, 19, 8 * k, 16 * k) for k in range(1, 6)]

    def inference() -> Tensor:
        return rendered_one_by_one(predictions, torch.randn(1, 5, 32, 64), (128, 256), resize=resize).render()

    with afa_kernels.use_backend(kernel):
        assert peak_bytes(inference) <= 1.2 * 19 * 128 * 256 * 4


def add(renderer: ScaleSpaceRenderer, *shapes: tuple[int, ...]) -> None:
    for shape in shapes:
        renderer.add(torch.zeros(shape), torch.zeros(shape[0], 1, 2, 2))


@pytest.mark.once
@pytest.mark.parametrize(
    "act, error, message",
    [
        (lambda r: add(r, (1, 3, 4, 4), (1, 3, 2, 2)), ValueError, "prediction must come coarse to fine, .* 16 pixels"),
        (lambda r: add(r, (1, 3, 4, 4), (1, 2, 4, 4)), ValueError, r"prediction must have shape \(1, 3, 4, 4\)"),
        (lambda r: add(r, (1, 3, 4, 4), (2, 3, 4, 4)), ValueError, r"prediction must have shape \(1, 3, 4, 4\)"),
        (lambda r: add(r, (3, 4, 4)), ValueError, "prediction must have 4 dimensions"),
        (lambda r: r.add(None, torch.zeros(1, 1, 2, 2)), TypeError, "prediction must be a Tensor, got NoneType"),
        (
            lambda r: r.add(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, 2)),
            ValueError,
            r"logits must have shape \(1, 1, 2, 2\) to match prediction .* got \(1, 2, 2, 2\)",
        ),
        (
            lambda r: [r.add(torch.zeros(1, 3, k, k), torch.zeros(1, 1, k, k)) for k in (2, 4)],
            ValueError,
            r"logits must have shape \(1, 1, 2, 2\) to match the first",
        ),
        (
            lambda r: r.add(torch.zeros(1, 3, 2, 2, requires_grad=True), torch.zeros(1, 1, 2, 2)),
            ValueError,
            "must not require a gradient, which ScaleSpaceRenderer does not record",
        ),
        (
            lambda r: [r.add(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2), last=True) for _ in range(2)],
            ValueError,
            "add must not be called after the last scale",
        ),
        (lambda r: r.render(), RuntimeError, "nothing to render: add a scale first"),
        (lambda r: r.labels(), RuntimeError, "nothing to render: add a scale first"),
        (lambda r: r.transmittance, RuntimeError, "no transmittance: add a scale first"),
        (lambda r: r.opaque(eps=-1), ValueError, "eps must be at least 0, got -1"),
        (lambda r: ScaleSpaceRenderer(8), TypeError, "size must be a pair of integers"),
        (lambda r: ScaleSpaceRenderer((8, 8), phi="tanh"), ValueError, "phi must be one of"),
        (lambda r: ScaleSpaceRenderer((8, 8), background="first"), ValueError, "background must be one of"),
        (lambda r: ScaleSpaceRenderer((8, 8), resize="logits"), ValueError, "resize must be one of"),
    ],
)
def test_refusals(act: Callable[[ScaleSpaceRenderer], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        act(ScaleSpaceRenderer((4, 4)))


@pytest.mark.once
def test_the_last_must_be_announced() -> None:
    renderer = ScaleSpaceRenderer((4, 4), background="last")
    add(renderer, (1, 3, 2, 2))
    with pytest.raises(RuntimeError, match="must be told the last scale"):
        renderer.render()


BAD: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((1, 3, 2, 2), (1, 1, 2, 2)),  # fewer pixels than before
    ((1, 2, 4, 4), (1, 1, 2, 2)),
    ((2, 3, 4, 4), (2, 1, 2, 2)),
    ((1, 3, 4, 4), (1, 1, 3, 2)),  # the logits of another size
    ((1, 3, 4, 4), (1, 2, 2, 2)),
    ((1, 3, 4, 0), (1, 1, 2, 2)),
]


@pytest.mark.once
@pytest.mark.parametrize("resize", ["weights", "opacities"])
def test_an_add_that_raises_changes_nothing(resize: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def scale(seed: int, side: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(1, 3, side, side, generator=generator), torch.randn(1, 1, 2, 2, generator=generator)

    with afa_kernels.use_backend(kernel):
        plain, renderer = (ScaleSpaceRenderer((8, 8), background="last", resize=resize) for _ in range(2))
        for r in (plain, renderer):
            r.add(*scale(0, 3))
        state, values = dict(vars(renderer)), renderer._rendered.clone()
        for prediction, logits in BAD:
            if resize == "opacities" and logits == (1, 1, 3, 2):
                continue
            with pytest.raises(ValueError):
                renderer.add(torch.zeros(prediction), torch.zeros(logits), last=True)
        with pytest.raises(ValueError):
            renderer.add(torch.zeros(1, 3, 4, 4, requires_grad=True), torch.zeros(1, 1, 2, 2), last=True)

        def failing(*_: object) -> None:
            raise MemoryError

        with monkeypatch.context() as patched, pytest.raises(MemoryError):
            patched.setattr("afa_kernels.renderer.scale_space_accumulate", failing)
            renderer.add(*scale(1, 4), last=True)
        assert all(value is state[name] for name, value in vars(renderer).items())
        assert torch.equal(renderer._rendered, values)
        for r in (plain, renderer):
            r.add(*scale(1, 4), last=True)
        assert torch.equal(plain.render(), renderer.render())
        assert torch.equal(plain.transmittance, renderer.transmittance)


@pytest.mark.once
def test_a_first_add_that_raises_leaves_it_empty(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("afa_kernels.renderer.scale_space_accumulate", failing)
    renderer = ScaleSpaceRenderer((4, 4))
    with pytest.raises(MemoryError):
        add(renderer, (1, 3, 2, 2))
    with pytest.raises(RuntimeError, match="no transmittance: add a scale first"):
        renderer.transmittance  # noqa: B018
    with pytest.raises(RuntimeError, match="nothing to render"):
        renderer.render()


@pytest.mark.once
def test_options_are_keywords() -> None:
    prediction, logits = torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2)
    with pytest.raises(TypeError, match="positional argument"):
        ScaleSpaceRenderer((4, 4), "relu")
    renderer = ScaleSpaceRenderer((4, 4))
    with pytest.raises(TypeError, match="positional argument"):
        renderer.add(prediction, logits, True)
    renderer.add(prediction, logits)
    with pytest.raises(TypeError, match="positional argument"):
        renderer.labels("score")


@pytest.mark.once
def test_sizes_of_numpy(kernel: str) -> None:
    numpy = pytest.importorskip("numpy")
    with afa_kernels.use_backend(kernel):
        renderer = ScaleSpaceRenderer(tuple(numpy.array([4, 5])))
        renderer.add(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2))
        assert renderer.render().shape == (1, 3, 4, 5) and renderer.transmittance.shape == (1, 1, 4, 5)


@pytest.mark.once
def test_not_known_to_be_opaque() -> None:
    """Where tensors have no values, so that warmup and export pass through every scale."""
    fake = torch._subclasses.FakeTensorMode()
    renderers = [ScaleSpaceRenderer((4, 4)) for _ in range(2)]
    opaque = torch.full((1, 1, 2, 2), torch.inf)
    with afa_kernels.use_backend("reference"):
        renderers[0].add(torch.zeros(1, 3, 2, 2, device="meta"), opaque.to("meta"))
        with fake:
            renderers[1].add(fake.from_tensor(torch.zeros(1, 3, 2, 2)), fake.from_tensor(opaque))
            assert not any(r.opaque() for r in renderers)


def test_tangents_are_refused(kernel: str) -> None:
    def rendered(prediction: Tensor) -> Tensor:
        renderer = ScaleSpaceRenderer((4, 4))
        renderer.add(prediction, torch.ones(1, 1, 2, 2))
        return renderer.render()

    x = torch.randn(1, 3, 2, 2)
    with pytest.raises(NotImplementedError, match=r"ScaleSpaceRenderer.add has no forward-mode .* scale_space_render"):
        torch.func.jvp(rendered, (x,), (x,))


@pytest.mark.parametrize("resize", ["weights", "opacities"])
def test_a_transmittance_stays_what_it_was(resize: str, backend: str) -> None:
    with afa_kernels.use_backend(backend):
        renderer = ScaleSpaceRenderer((4, 4), resize=resize)
        renderer.add(torch.ones(1, 2, 2, 2), torch.ones(1, 1, 2, 2))
        seen = renderer.transmittance
        before = seen.clone()
        renderer.add(torch.ones(1, 2, 4, 4), torch.ones(1, 1, 2, 2))
    assert torch.equal(seen, before)


def test_no_channels_let_through_what_others_do(backend: str) -> None:
    with afa_kernels.use_backend(backend):
        renderer = ScaleSpaceRenderer((4, 3), resize="opacities")
        renderer.add(torch.ones(1, 0, 2, 2), torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(renderer.transmittance, torch.full((1, 1, 4, 3), -1.0).exp())
