"""Any sizes, strides, element types and options, against the float64 oracle."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.session import INTERPRETED

from afa_kernels.testing import DTYPES, LAYOUTS, Case, check

pytestmark = pytest.mark.usefixtures("poisoned")

anything = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
TRITON = INTERPRETED  # whose interpreter is slow
sides = st.integers(1, 5 if TRITON else 12)
sizes = st.tuples(sides, sides)
batches = st.integers(0, 3)
channels = st.integers(1, 20)
phis = st.sampled_from(["abs", "relu", "softplus", "exp"])
backgrounds = st.sampled_from(["none", "last"])


def layouts(count: int) -> st.SearchStrategy[tuple[str, ...]]:
    return st.tuples(*[st.sampled_from(sorted(LAYOUTS))] * count)


def dtypes(count: int) -> st.SearchStrategy[tuple[torch.dtype, ...]]:
    """All alike, or each its own; Triton's interpreter makes no bfloat16 of a float64."""
    alike = st.sampled_from(DTYPES).map(lambda dtype: (dtype,) * count)
    mixed = DTYPES[:-1] if TRITON else DTYPES
    return alike | st.tuples(*[st.sampled_from(mixed)] * count)


@st.composite
def fusions(draw: st.DrawFn) -> Case:
    n, c, (h, w) = draw(batches), draw(channels), draw(sizes)
    shapes = ((n, c, h, w), (n, c, h, w), (n, 1, h, w), (n, c, 1, 1))
    return Case("attentive_fusion", "any", shapes, layouts=draw(layouts(4)), dtypes=(draw(dtypes(4)),))


@st.composite
def progressive_fusions(draw: st.DrawFn) -> Case:
    n, c, (h, w), inputs = draw(batches), draw(channels), draw(sizes), draw(st.integers(1, 3 if TRITON else 5))
    shapes = tuple([shape] * inputs for shape in ((n, c, h, w), (n, 1, h, w), (n, c, 1, 1)))
    kinds = (draw(dtypes(3 * inputs)),)
    return Case("progressive_fusion", "any", shapes, layouts=draw(layouts(3 * inputs)), dtypes=kinds)


@st.composite
def pools(draw: st.DrawFn) -> Case:
    shape = (draw(batches), draw(channels), *draw(sizes))
    return Case("global_avg_max_pool", "any", (shape,), layouts=draw(layouts(1)), dtypes=(draw(dtypes(1)),))


@st.composite
def upsamplings(draw: st.DrawFn) -> Case:
    """A fusion of what is upsampled, or the pooling of it; the weight is dense."""
    n, c, (h, w), factor = draw(batches), draw(channels), draw(sizes), draw(st.sampled_from([2, 4, 8]))
    fine = factor * h, factor * w
    shapes = ((n, c, *fine), (n, c, h, w), (c, 1, 2 * factor, 2 * factor), (n, 1, *fine), (n, c, 1, 1))
    op = draw(st.sampled_from(["upsampled_fusion", "upsampled_pool"]))
    chosen = shapes if op == "upsampled_fusion" else shapes[1:3]
    weight = 2 if op == "upsampled_fusion" else 1
    placed = draw(layouts(len(chosen)))
    placed = (*placed[:weight], "contiguous", *placed[weight + 1 :])
    return Case(op, "any", chosen, layouts=placed, dtypes=(draw(dtypes(len(chosen))),))


@st.composite
def weights(draw: st.DrawFn) -> Case:
    n, scales = draw(batches), draw(st.integers(1, 16))
    several = draw(st.booleans())
    count = scales if several else 1
    logits = [(n, 1, *draw(sizes)) for _ in range(scales)] if several else (n, scales, *draw(sizes))
    options = {"phi": draw(phis), "background": draw(backgrounds)}
    return Case("scale_space_weights", "any", (logits,), options, draw(layouts(count)), (draw(dtypes(count)),))


@st.composite
def renders(draw: st.DrawFn) -> Case:
    n, c, scales = draw(batches), draw(channels), draw(st.integers(1, 3 if TRITON else 5))
    predictions = [(n, c, *draw(sizes)) for _ in range(scales)]
    options = {
        "size": draw(st.none() | sizes),
        "phi": draw(phis),
        "background": draw(backgrounds),
        "resize": draw(st.sampled_from(["weights", "opacities"])),
    }
    shapes = (predictions, (n, scales, *draw(sizes)))
    kinds = (draw(dtypes(scales + 1)),)
    return Case("scale_space_render", "any", shapes, options, draw(layouts(scales + 1)), kinds)


@st.composite
def losses(draw: st.DrawFn) -> Case:
    render = draw(renders())
    (n, c, *_), *_ = render.shapes[0]
    c, ignored = max(c, 1), draw(st.sampled_from([-100, 255, 0]))
    n, (h, w) = max(n, 1), draw(sizes)
    target = torch.arange(n * h * w).mul(5).remainder(c + 1).view(n, h, w)
    options = {
        **{name: option for name, option in render.options.items() if name != "size"},
        "target": torch.where(target == c, ignored, target),
        "ignore_index": ignored,
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.1])),
        "weight": draw(st.none() | st.just(torch.linspace(0.5, 2, c))),
    }
    shapes = [(n, c, *shape[2:]) for shape in render.shapes[0]], (n, *render.shapes[1][1:])
    return Case("scale_space_cross_entropy", "any", shapes, options, render.layouts, render.dtypes)


@st.composite
def resized_losses(draw: st.DrawFn) -> Case:
    loss = draw(losses())
    names = ("target", "ignore_index", "reduction", "label_smoothing", "weight")
    options = {name: loss.options[name] for name in names}
    return Case("resized_cross_entropy", "any", (loss.shapes[0][0],), options, draw(layouts(1)), (draw(dtypes(1)),))


@st.composite
def hierarchies(draw: st.DrawFn) -> Case:
    n, c, count = draw(batches), draw(channels), draw(st.integers(1, 3))
    variant, scales = draw(st.sampled_from(["afa", "nvidia"])), (0.5, 1.0, 1.5)[:count]
    predictions = [(n, c, *draw(sizes)) for _ in range(count)]
    attentions = [(n, 1, *(p[2:] if variant == "nvidia" else draw(sizes))) for p in predictions[:-1]]
    options = {"scales": scales, "variant": variant, "size": draw(sizes)}
    arguments = 2 * count - 1
    kinds = (draw(dtypes(arguments)),)
    return Case("hierarchical_fusion", "any", (predictions, attentions), options, draw(layouts(arguments)), kinds)


@st.composite
def channel_attentions(draw: st.DrawFn) -> Case:
    n, c, (h, w), hidden, outputs = draw(batches), draw(channels), draw(sizes), draw(channels), draw(channels)
    options = {
        "running_mean": torch.linspace(-1, 1, hidden),
        "running_var": torch.linspace(0.5, 2, hidden),
        "training": False,
        "activation_slope": draw(st.sampled_from([0.0, 0.01])),
        "abs_weight": draw(st.booleans()),
    }
    shapes = ((n, c, max(h, 1), max(w, 1)), (hidden, c, 1, 1), (hidden,), (hidden,), (outputs, hidden, 1, 1))
    arrangement = (draw(st.sampled_from(sorted(LAYOUTS))), *4 * ("contiguous",))
    names = ("x", "conv1_weight", "weight", "bias", "conv2_weight")
    kinds = torch.float64 if draw(st.booleans()) else torch.float32
    return Case("channel_attention", "any", shapes, options, arrangement, (kinds,), names=names)


@st.composite
def projections(draw: st.DrawFn) -> Case:
    n, c, (h, w) = draw(batches), draw(channels), draw(sizes)
    running = (
        draw(st.booleans()) if n * h * w >= 8 else True
    )  # two values tell little of the gradient of their variance
    options = {
        "running_mean": torch.linspace(-1, 1, c) if running else None,
        "running_var": torch.linspace(0.5, 2, c) if running else None,
        "training": not running,
        "activation_slope": draw(st.sampled_from([0.0, 0.01])),
        "abs_weight": draw(st.booleans()),
    }
    shapes = ((n, c, h, w), (c,), (c,), (1, c, 1, 1))
    arrangement = (draw(st.sampled_from(sorted(LAYOUTS))), *3 * ("contiguous",))
    names = ("hidden", "weight", "bias", "project_weight")
    return Case("bn_relu_project", "any", shapes, options, arrangement, (draw(dtypes(4)),), names=names)


@anything
@given(fusions(), st.integers(0, 1000))
def test_attentive_fusion(backend: str, case: Case, seed: int) -> None:
    check(case, case.inputs(case.dtypes[0], seed=seed), backend)


@anything
@given(progressive_fusions(), st.integers(0, 1000))
def test_progressive_fusion(backend: str, case: Case, seed: int) -> None:
    check(case, case.inputs(case.dtypes[0], seed=seed), backend)


@anything
@given(pools(), st.integers(0, 1000))
def test_global_avg_max_pool(backend: str, case: Case, seed: int) -> None:
    check(case, case.inputs(case.dtypes[0], seed=seed), backend)


@anything
@given(upsamplings(), st.integers(0, 1000))
def test_upsampling(backend: str, case: Case, seed: int) -> None:
    check(case, case.inputs(case.dtypes[0], seed=seed), backend)


@anything
@given(channel_attentions(), st.integers(0, 1000))
def test_channel_attention(backend: str, case: Case, seed: int) -> None:
    check(case, case.inputs(case.dtypes[0], seed=seed), backend)


@anything
@given(projections(), st.integers(0, 1000))
def test_bn_relu_project(backend: str, case: Case, seed: int) -> None:
    check(case, case.inputs(case.dtypes[0], seed=seed), backend)


@anything
@given(weights(), st.integers(0, 1000))
def test_scale_space_weights(backend: str, case: Case, seed: int) -> None:
    check(case, case.inputs(case.dtypes[0], seed=seed), backend)


@anything
@given(hierarchies(), st.integers(0, 1000))
def test_hierarchical_fusion(backend: str, case: Case, seed: int) -> None:
    check(case, case.inputs(case.dtypes[0], seed=seed), backend)


@anything
@given(losses(), st.integers(0, 1000))
def test_scale_space_cross_entropy(backend: str, case: Case, seed: int) -> None:
    check(case, case.inputs(case.dtypes[0], seed=seed), backend)


@anything
@given(resized_losses(), st.integers(0, 1000))
def test_resized_cross_entropy(backend: str, case: Case, seed: int) -> None:
    check(case, case.inputs(case.dtypes[0], seed=seed), backend)


@anything
@given(renders(), st.integers(0, 1000))
def test_scale_space_render(backend: str, case: Case, seed: int) -> None:
    check(case, case.inputs(case.dtypes[0], seed=seed), backend)
