"""What makes a program of a module: torch.export, torch.compile, torch.fx, torch.jit.trace; checkpoints and copies."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import afa_kernels
from afa_kernels.models import AFADLAUp, AFALevelFusion
from afa_kernels.nn import (
    AttentiveFusion,
    ChannelAttention,
    MultiScale,
    ProgressiveFusion,
    ScaleSpaceRendering,
    SpatialAttention,
)

pytestmark = pytest.mark.once


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self.body(x).relu()
        return self.out(f), f


class Two(nn.Module):
    """A module of lists, after convolutions of two images of the sizes given."""

    def __init__(self, module: nn.Module, channels: int, side: int = 1) -> None:
        super().__init__()
        self.module, self.first, self.second = module, nn.Conv2d(4, channels, side, side), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Any:
        layers = [self.first(x), self.second(x)]
        if isinstance(self.module, AttentiveFusion):
            return self.module(*layers[::-1])
        return self.module(layers[::-1] if isinstance(self.module, AFADLAUp) else layers)


class Rendering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network, self.fuse = Network(), ScaleSpaceRendering(4)

    def forward(self, small: Tensor, large: Tensor) -> Tensor:
        (p, f), (q, g) = self.network(small), self.network(large)
        return self.fuse([p, q], [f, g], (0.5, 1.0), (small.shape[2], large.shape[3]))


def scaled(fuse: str, **options: Any) -> MultiScale:
    return MultiScale(Network(), (0.5, 1.0, 1.75), fuse, None if fuse == "mean" else ScaleSpaceRendering(4), **options)


# The channels of the images, how many images, and of what height and width must be multiples.
MODULES: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {
    "SpatialAttention": (lambda: SpatialAttention(4), 4, 1, 1),
    "ChannelAttention": (lambda: ChannelAttention(4, 4), 4, 1, 1),
    "AttentiveFusion": (lambda: AttentiveFusion(4), 4, 2, 1),
    "AttentiveFusion, abn": (lambda: AttentiveFusion(4, norm="abn"), 4, 2, 1),
    "AttentiveFusion, another norm": (lambda: AttentiveFusion(4, norm=lambda c: nn.GroupNorm(1, c)), 4, 2, 1),
    "AttentiveFusion of two sizes": (lambda: Two(AttentiveFusion(4, 8), 8, 2), 4, 1, 2),
    "ProgressiveFusion": (lambda: Two(ProgressiveFusion(4), 4), 4, 1, 1),
    "AFADLAUp": (lambda: Two(AFADLAUp([4, 8], [1, 2]), 8, 2), 4, 1, 2),
    "AFALevelFusion": (lambda: Two(AFALevelFusion([8, 4]), 8, 2), 4, 1, 1),
    "ScaleSpaceRendering": (Rendering, 3, 2, 1),
    "MultiScale, ssr": (lambda: scaled("ssr", flip=True, eps=0.1), 3, 1, 1),
    "MultiScale, hma": (lambda: scaled("hma", multiple=(8, 4)), 3, 1, 1),
    "MultiScale, mean": (lambda: scaled("mean"), 3, 1, 1),
}


def made(name: str, training: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return MODULES[name][0]().train(training)


def images(name: str, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
    _, channels, count, multiple = MODULES[name]
    return tuple(torch.randn(batch, channels, height * multiple, width * multiple) for _ in range(count))


def last(out: Any) -> Tensor:
    return out[-1] if isinstance(out, (list, tuple)) else out


def close(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", [name for name in MODULES if "another" not in name])
def test_exported_for_every_size(name: str, strict: bool, kernel: str) -> None:
    model = made(name)
    if isinstance(model, MultiScale):
        model.eps = None  # all scales run in an exported program
    multiple = MODULES[name][3]
    rows, columns = (torch.export.Dim(axis, min=2, max=256) for axis in ("rows", "columns"))
    dynamic = torch.export.Dim.DYNAMIC
    sizes = {2: dynamic, 3: dynamic} if multiple == 1 else {2: multiple * rows, 3: multiple * columns}
    given = images(name, 2, 16, 20)
    program = torch.export.export(
        model, given, dynamic_shapes=tuple({0: dynamic, **sizes} for _ in given), strict=strict
    )
    for other in (given, images(name, 3, 23, 29)):
        close(program.module()(*other), model(*other))


@pytest.mark.parametrize("dim", ["AUTO", "DYNAMIC"])
@pytest.mark.parametrize("name", [name for name in MODULES if "another" not in name])
def test_exported_by_default_and_saved(name: str, dim: str, kernel: str, tmp_path: Path) -> None:
    """In the default mode, with sizes that nobody has named, and through a file."""
    model, multiple = made(name), 4 * MODULES[name][3]
    if isinstance(model, MultiScale):
        model.eps = None
    of_any = getattr(torch.export.Dim, dim)
    shapes = tuple({0: of_any, 2: of_any, 3: of_any} for _ in range(MODULES[name][2]))
    program = torch.export.export(model, images(name, 2, 16, 20), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2")
    for other in (images(name, 2, 16, 20), images(name, 3, multiple * 6, multiple * 7)):
        close(loaded.module()(*other), model(*other))


def test_exported_with_eps(kernel: str) -> None:
    model = made("MultiScale, ssr")
    (image,) = images("MultiScale, ssr", 1, 16, 20)
    program = torch.export.export(model, (image,))
    model.eps = None
    close(program.module()(image), model(image))


@pytest.mark.parametrize("name", [name for name in MODULES if "another" not in name])
def test_exported_operations(name: str, kernel: str) -> None:
    """The fused ones, but for a mean; inside use_backend("reference") none of this package's."""
    for backend, expected in ((kernel, True), ("reference", False)):
        with afa_kernels.use_backend(backend):
            program = torch.export.export(made(name), images(name, 2, 16, 20), strict=False)
        graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
        found = [str(node.target) for graph in graphs for node in graph.nodes if "afa." in str(node.target)]
        assert bool(found) == (expected and name != "MultiScale, mean"), found


COMPILED = [(name, True, False) for name in MODULES] + [
    (name, False, True) for name in ("SpatialAttention", "ChannelAttention", "AFADLAUp", "MultiScale, hma")
]


@pytest.mark.parametrize("name, training, dynamic", COMPILED)
def test_compiled(name: str, training: bool, dynamic: bool, kernel: str) -> None:
    torch.compiler.reset()
    model = made(name, training)
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in ((2, 16, 20), (3, 23, 29)) if dynamic else ((2, 16, 20),):
        given = images(name, *size)
        close(compiled(*given), plain(*given))
    close(list(model.buffers()), list(plain.buffers()))


def test_compiled_with_hooks(kernel: str) -> None:
    torch.compiler.reset()
    model, given = made("AttentiveFusion"), images("AttentiveFusion", 2, 8, 10)
    for part in (model.sa, model.ca.conv1[0], model.sa.conv_inner[1][0]):
        part.register_forward_hook(lambda m, args, out: out * 0.5)
    close(torch.compile(model, fullgraph=True, backend="aot_eager")(*given), model(*given))


class Embedded(nn.Module):
    """The module in a network, as torch.fx finds it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.inner, (_, channels, self.count, _) = made(name), MODULES[name]
        self.stem = nn.Conv2d(channels, channels, 1)

    def forward(self, *images: Tensor) -> Any:
        return self.inner(*(self.stem(image) for image in images))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_symbolically_traced(name: str, training: bool, kernel: str) -> None:
    """Plain operators and calls of the children, or of MultiScale; the graph follows the mode of the children."""
    if name == "ScaleSpaceRendering":
        pytest.skip("the operation checks sizes")

    class Fixed(Embedded):
        def forward(self, image: Tensor, another: Tensor | None = None) -> Any:  # type: ignore[override]
            return super().forward(*(image, another)[: self.count])

    torch.manual_seed(1)
    model = Fixed(name).train(training)
    given = images(name, 2, 16, 20)
    buffers = [b.clone() for b in model.buffers()]
    traced = torch.fx.symbolic_trace(model, None if len(given) > 1 else {"another": None})
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers())), "tracing moved the statistics"
    plain = copy.deepcopy(model)
    got = traced(*given) if len(given) > 1 else traced(given[0], None)
    close(got, plain(*given))
    close(list(model.buffers()), list(plain.buffers()))
    leaves = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert ("inner" in leaves) == isinstance(model.inner, MultiScale)


def test_what_symbolic_tracing_refuses() -> None:
    with pytest.raises(TypeError, match=r"MultiScale is a leaf .* cannot be their root"):
        torch.fx.symbolic_trace(made("MultiScale, ssr"))


def test_the_up_path_is_traced_by_itself(kernel: str) -> None:
    model, layers = AFADLAUp([4, 8], [1, 2]).eval(), [torch.randn(2, 4, 6, 8), torch.randn(2, 8, 3, 4)]
    close(torch.fx.symbolic_trace(model)(layers), model(layers))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODULES)
def test_jit_traced(name: str, kernel: str) -> None:
    model, given = made(name), images(name, 2, 16, 20)
    with torch.no_grad():
        close(torch.jit.trace(model, given)(*given), model(*given))


# But for PyTorch's own warnings: of a norm that is called, and of a list that is returned.
@pytest.mark.parametrize("name", [n for n in MODULES if "another" not in n and n != "AFADLAUp"])
def test_traced_without_warnings(name: str, kernel: str) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        torch.jit.trace(made(name), images(name, 1, 16, 20))


@pytest.mark.parametrize("name", MODULES)
def test_what_scripting_refuses(name: str) -> None:
    with pytest.raises(
        TypeError, match=r"torch.jit.script cannot compile \w+, which asks of its children what they are"
    ):
        torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1), made(name)))


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_checkpointed(name: str, reentrant: bool, hooked: bool, kernel: str) -> None:
    model, given = made(name, training=True), tuple(x.requires_grad_() for x in images(name, 2, 8, 10))
    if hooked:
        for part in list(model.modules())[1:]:
            part.register_forward_hook(lambda *_: None)
    results = []
    for run in (lambda f: f(*given), lambda f: checkpoint(f, *given, use_reentrant=reentrant)):
        m = copy.deepcopy(model)
        out = run(lambda *images, m=m: last(m(*images)))
        gradients = torch.autograd.grad(out.square().sum(), given) if not reentrant else None
        if gradients is None:
            out.square().sum().backward()
            gradients = tuple(x.grad for x in given)
            for x in given:
                x.grad = None
        results.append([out.detach(), *gradients])
    close(*results)


@pytest.mark.parametrize("name", [name for name in MODULES if "another" not in name])
def test_copied_pickled_and_halved(name: str, kernel: str) -> None:
    model, given = made(name), images(name, 2, 8, 10)
    expected = model(*given)
    close(copy.deepcopy(model)(*given), expected)
    close(pickle.loads(pickle.dumps(model))(*given), expected)
    model.eps = None
    half = model.bfloat16()(*(x.bfloat16() for x in given))
    half, expected = last(half), last(expected)
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.05 * float(expected.abs().max()) + 0.05)
