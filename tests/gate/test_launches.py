"""How the launchers launch: grids, tiles, the device, 64-bit offsets, and what a kernel may load; and `warmup`."""

from __future__ import annotations

import ast
import collections
import concurrent.futures
import contextlib
import functools
import importlib
import itertools
import math
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cases
import offline
import pytest
import torch
import triton
import triton.language as tl
from cases import CASES, LARGE_CASES
from cases._values import MANY
from support.parts import FIRST
from support.session import on_triton
from torch import Tensor
from triton.runtime.jit import JITFunction

import afa_kernels
from afa_kernels import backends, triton_kernels
from afa_kernels.testing import Case, differentiable, operations, tensors
from afa_kernels.triton_kernels import _launch, _maps, _resize, _tiles
from benchmarks.gpu import machine

MULTIPROCESSORS = 132
MODULES = [
    importlib.import_module(f"afa_kernels.triton_kernels.{module.name}")
    for module in pkgutil.iter_modules(triton_kernels.__path__)
]
FLOAT32_ONLY = [case for case in CASES if case.layouts in (("contiguous",), ("channels_last",)) and not case.planted]


# Launches whose programs loop over what an earlier launch has reduced, a few values for each of its blocks.
SECOND_STAGE = (
    "_channel_kernel",
    "_pool._combine_kernel",
    "_statistics._merge_kernel",
    "_parameters_kernel",
    "_weight_kernel",
    "channel_attention._forward_kernel",
    "channel_attention._units_kernel",
    "channel_attention._logits_kernel",
    "channel_attention._units_backward_kernel",
    "channel_attention._channels_backward_kernel",
)
SMALL_MAP = 2**16  # elements, in tiles: maps of one channel at the attention's resolution
SMALL_COPY = 2**18  # of predictions, which take a GPU a few microseconds


@pytest.fixture(autouse=True)
def no_plans() -> Iterator[None]:
    """What a test pretended to have compiled is launched by no other."""
    _launch._plans.clear()
    yield
    _launch._plans.clear()


@pytest.mark.parametrize("case", [case for case in FIRST if differentiable(case.op)], ids=str)
def test_the_front_end_takes_every_gradient_alone(case: Case) -> None:
    """And all others without it: what nobody asked for is None in a kernel, which Triton 3.6 takes not everywhere."""
    if not on_triton(case.op):
        pytest.skip("it has no launch")
    count = len(tensors(case.unfilled(torch.float32)))
    alone = [[i == j for i in range(count)] for j in range(count)]
    for wanted in alone + [[not w for w in one] for one in alone if count > 1]:
        for launch in machine.passes(case, torch.float32, wanted)["backward"]:
            offline.front_end(launch, offline.TARGETS["sm_90"])


# Of sizes of real networks, but for those that are here for the launch that moves running statistics.
LARGE_MAPS = [case for case in LARGE_CASES if not case.covers.endswith("running statistics moved")]


@pytest.mark.parametrize("case", LARGE_MAPS, ids=str)
def test_large_maps_fill_the_gpu(case: Case) -> None:
    """Every launch over a map has a program for each multiprocessor, unless the whole map is small."""
    grids = []
    for made in offline.launches(case, case.dtypes[0]):
        programs = math.prod(made.grid)
        tile = math.prod(size for name, size in made.keywords.items() if name.startswith("BLOCK"))
        grids.append(programs)
        if not offline.title(made).endswith(SECOND_STAGE):
            small = SMALL_COPY if offline.title(made) == "_nchw._copy_kernel" else SMALL_MAP
            assert programs >= MULTIPROCESSORS or programs * tile <= small, (offline.title(made), made.grid)
    assert max(grids) >= MULTIPROCESSORS


@pytest.mark.parametrize("case", [*FLOAT32_ONLY, *LARGE_CASES], ids=str)
def test_grids_and_tiles(case: Case) -> None:
    for dtypes in case.dtypes:
        for made in offline.launches(case, dtypes):
            blocks = {name: size for name, size in made.keywords.items() if name.startswith("BLOCK")}
            assert all(size == triton.next_power_of_2(size) for size in blocks.values()), blocks
            most = 4096 if "BLOCK_B" in blocks else 2048  # rows of sums are few values each
            assert 1 <= math.prod(sorted(blocks.values())[-2:]) <= most, blocks  # a tile has two axes at most
            assert made.keywords.get("num_warps", 4) in (1, 2, 4, 8)
            assert all(0 < size < 2**16 for size in made.grid[1:]), made.grid  # CUDA's limit
            assert 0 < made.grid[0] < 2**31


MANY_IMAGES = tuple(cases.of(op, "MANY_IMAGES") for op in operations() if on_triton(op))


@pytest.mark.parametrize("case", MANY_IMAGES, ids=str)
def test_only_the_first_axis_of_a_grid_may_be_long(case: Case) -> None:
    """And a batch that is split has the same kernels, which compile once."""
    made = offline.launches(case, torch.float32)
    assert all(0 < size < 2**16 for launch in made for size in launch.grid[1:])
    images: dict[str, int] = collections.Counter()
    for launch in made:
        if len(launch.grid) > 1:
            images[offline.title(launch)] += launch.grid[-1]
    assert images and all(number % MANY == 0 for number in images.values()), images
    texts = {offline.front_end(launch, offline.TARGETS["sm_90"]) for launch in made}
    with mock.patch.object(_launch, "MOST_IMAGES", MANY):
        assert texts == {
            offline.front_end(launch, offline.TARGETS["sm_90"]) for launch in offline.launches(case, torch.float32)
        }


@pytest.mark.parametrize("shape", [(1, 64, 8, 8), (2, 512, 4, 4), (1, 3, 16, 16)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_small_maps_take_few_launches(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    batch, channels, height, width = shape
    fusion = Case("attentive_fusion", "", (shape, shape, (batch, 1, height, width), (batch, channels, 1, 1)))
    assert len(offline.launches(fusion, dtype)) == 1 + 2
    assert len(offline.launches(Case("scale_space_weights", "", ((*shape[:1], 3, *shape[2:]),)), dtype)) == 1 + 1


PIXELS = (1, 2, 255, 256, 257, 52 * 52, 89 * 97, 64 * 128, 512 * 1024)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_tiles_of_maps(channels_last: bool, itemsize: int) -> None:
    for channels, pixels in itertools.product((1, 2, 3, 16, 19, 64, 131, 1000), PIXELS):
        for tile in (
            _tiles.of_map(channels, channels_last, itemsize),
            _tiles.of_reduction(channels, channels_last, itemsize),
            _tiles.of_sums(channels, pixels, channels_last, itemsize),
            _tiles.of_sums(channels, pixels, channels_last, itemsize, widest=64),
        ):
            elements = tile["BLOCK_C"] * tile["BLOCK_P"] // (32 * tile["num_warps"])
            assert elements * itemsize >= 16 and elements <= 16
            blocks = triton.cdiv(pixels, tile["BLOCK_P"])
            assert (blocks - 1) * tile["BLOCK_P"] < pixels <= blocks * tile["BLOCK_P"]


@pytest.mark.parametrize("pixels", PIXELS)
def test_a_program_takes_several_blocks_and_no_more_than_there_are(pixels: int) -> None:
    for block, channel_blocks in itertools.product((4, 64), (1, 8)):
        blocks = triton.cdiv(pixels, block)
        steps = _tiles.steps(blocks, blocks * channel_blocks, least=4)
        assert min(4, blocks) <= steps <= blocks
        assert _tiles.steps(blocks, blocks * channel_blocks, least=4, together=4) == triton.cdiv(steps, 4) * 4
        assert steps in (4, blocks) or triton.cdiv(blocks, steps) * channel_blocks <= _tiles.PROGRAMS + channel_blocks


@pytest.mark.parametrize("number", [0, 1, 2, 15, 16, 2**30 - 1, 2**30, 2**30 + 1, 2**31, 2**40])
def test_numbers_are_decoded_in_their_own_bits(number: int) -> None:
    (code,) = _resize.encoded((number,))
    assert code % 16 != 0 and (code == 1) == (number == 1)
    in_bits = torch.tensor(code, dtype=torch.int32 if code < 2**31 else torch.int64)
    assert int(_resize.decoded.fn(in_bits)) == number


@pytest.mark.parametrize("channels, pixels", [(32, 512 * 1024), (64, 256 * 512), (128, 128 * 256), (256, 64 * 128)])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_sums_over_channels_fill_the_gpu(channels: int, pixels: int, itemsize: int) -> None:
    """At every level two programs or so for each multiprocessor, and not more rows of sums than are soon added up."""
    for channels_last in (False, True):
        tile = _tiles.of_sums(channels, pixels, channels_last, itemsize)
        blocks = triton.cdiv(pixels, tile["BLOCK_P"])
        whole = channels <= tile["BLOCK_C"]
        rows = triton.cdiv(blocks, _tiles.steps(blocks, blocks, least=4) if whole else 1)
        assert 250 <= rows <= 2048


@pytest.mark.parametrize("inputs", [1, 4, 5, 8, 9, 16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("itemsize", [2, 4, 8])
@pytest.mark.parametrize("aligned", [False, True])
def test_tiles_of_progressive_fusion(inputs: int, channels_last: bool, itemsize: int, aligned: bool) -> None:
    for channels, pixels in itertools.product((1, 3, 16, 19, 64, 131, 1000), PIXELS):
        of_one = _tiles.of_sums(channels, pixels, channels_last, itemsize)
        tile = _tiles.of_maps(of_one, inputs, channels_last, aligned)
        elements = tile["BLOCK_C"] * tile["BLOCK_P"] // (32 * tile["num_warps"])
        assert elements >= 1 and elements * inputs <= 32, "a thread has 255 registers, for three values of each input"
        assert elements * itemsize >= 16 or inputs > 4 or not aligned


@pytest.mark.parametrize("scales", [1, 4, 5, 16])
@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_tiles_of_scale_space_render(scales: int, itemsize: int) -> None:
    for width in (1, 3, 64, 255, 2048):
        tile = _tiles.of_row(width, scales, itemsize)
        assert tile["BLOCK_P"] <= (2 if scales <= 8 and itemsize < 8 else 1) * 32 * tile["num_warps"]
        assert tile["BLOCK_P"] < 2 * width


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_tiles_of_scale_space_weights(itemsize: int) -> None:
    tile = _tiles.of_pixels(itemsize)
    assert tile["BLOCK_P"] // (32 * tile["num_warps"]) * itemsize >= 16


@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_every_launch_is_on_the_device_of_its_tensors(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[Any] = []

    @contextlib.contextmanager
    def guarded(arguments: Any) -> Iterator[None]:
        current.append(next(_launch._tensors(arguments)).device)
        yield
        current.pop()

    def unguarded(kernel: JITFunction, *arguments: Any, **keywords: Any) -> None:
        assert current, f"{kernel.__name__} is launched on whatever device is the current one"
        assert {x.device for x in _launch._tensors(arguments)} == set(current)
        seen.append(kernel)

    seen: list[JITFunction] = []
    monkeypatch.setattr(_launch, "on_device_of", guarded)
    monkeypatch.setattr(JITFunction, "run", unguarded)
    monkeypatch.setattr(machine, "hooked", lambda _: contextlib.nullcontext())
    offline.launches(case, case.dtypes[0])
    assert seen


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_kernels_stand_alone(module: Any) -> None:
    """What several operations share is in a file with an underscore, and only `launch` launches."""
    source = Path(module.__file__).read_text()
    assert re.findall(r"afa_kernels\.triton_kernels(?:\.| import )([a-z]\w*)", source) == []
    assert re.findall(r"^\s+\w+\[\(?\w.*\]\(", source, re.MULTILINE) == []


def test_the_guard_makes_the_second_device_current() -> None:
    entered = mock.MagicMock()
    on_second = mock.Mock(spec=Tensor, is_cuda=True, device=torch.device("cuda", 1))
    with mock.patch.object(torch.cuda, "device", entered), mock.patch.object(torch.cuda, "current_device") as current:
        current.return_value = 0
        with _launch.on_device_of((None, 3, (on_second,))):
            entered.assert_called_once_with(torch.device("cuda", 1))
            entered.return_value.__enter__.assert_called_once()
        entered.return_value.__exit__.assert_called_once()
        current.return_value = 1
        with _launch.on_device_of((on_second,)):
            entered.assert_called_once()  # it is the current one


class TwoDevices:
    """A driver of two devices, each with a current stream of its own."""

    current = 0

    def get_current_device(self) -> int:
        return self.current

    def get_current_stream(self, device: int) -> str:
        return f"the current stream of device {device}"

    def get_current_target(self) -> Any:
        return offline.TARGETS["sm_90"]


@pytest.mark.parametrize("case", [case for case in LARGE_CASES if case.thorough], ids=str)
def test_launches_go_to_the_current_stream_of_the_second_device(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tensors are, though device 0 is the current one; and nothing stays on device 1 afterwards."""
    driver, streams = TwoDevices(), []
    compiled = mock.MagicMock(
        spec=("launch_metadata", "function", "packed_metadata", "run", "__getitem__"),  # what the JIT asks for, or we
        run=lambda x, y, z, stream, *rest: streams.append(stream),
        __getitem__=lambda self, grid: lambda *rest: streams.append(driver.get_current_stream(driver.current)),
    )

    @contextlib.contextmanager
    def guarded(arguments: Any) -> Iterator[None]:
        monkeypatch.setattr(driver, "current", 1)
        yield
        monkeypatch.setattr(driver, "current", 0)

    monkeypatch.setattr(_launch, "on_device_of", guarded)
    monkeypatch.setattr(JITFunction, "_do_compile", lambda *_: compiled)
    monkeypatch.setattr(machine, "hooked", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    offline.launches(case, torch.float32)
    assert streams and set(streams) == {"the current stream of device 1"}


def narrow_offsets(ttir: str) -> list[str]:
    """Lines of Triton's IR that add 32 bits to a pointer, or widen a 32-bit product of two values."""
    products = set(re.findall(r"(%\S+) = arith\.muli %(?!c)\S+, %(?!c)\S+ : (?:tensor<\S*x)?i32\b", ttir))
    found = []
    for line in ttir.splitlines():
        if "tt.addptr" in line and re.search(r", (?:tensor<\S*x)?i32\b", line):
            found.append(line.strip())
        widened = re.search(r"arith\.extsi (%\S+) ", line)
        if widened and widened[1] in products:
            found.append(line.strip())
    return found


def ttir(made: _launch.Launch) -> str:
    source, options = offline.source(made, offline.TARGETS["sm_90"])
    return triton.compile(source, target=offline.TARGETS["sm_90"], options=options).asm["ttir"]


@pytest.mark.parametrize("case", [c for c in LARGE_CASES if c.covers.startswith(("odd sizes", "opacities"))], ids=str)
def test_offsets_have_64_bits(case: Case) -> None:
    """All, but those inside images that are known to be small enough."""
    for made in offline.launches(case, torch.float32):
        if "index" in made.keywords:
            made.keywords["index"] = tl.int64
        assert narrow_offsets(ttir(made)) == [], offline.title(made)


def test_offsets_inside_small_images_have_32_bits() -> None:
    def image(channels: int, height: int, width: int) -> Tensor:
        return torch.empty(2, channels, height, width, device="meta")

    largest = image(1, 2**16, 2**15 - 1)
    assert _maps.index_of([largest, image(19, 512, 1024)]) == tl.int32
    far_apart = image(2, 8, 8).as_strided((2, 2, 8, 8), (1, 2**31, 8, 1))
    for large in (image(1, 2**16, 2**15), image(150, 4096, 4096), far_apart):
        assert _maps.index_of([largest, large]) == tl.int64


@triton.jit
def _narrow(x, stride, size):
    at = triton.language.program_id(0) * stride
    triton.language.store(x + at + size, 1.0)


@triton.jit
def _widened_too_late(x, stride, size):
    at = (triton.language.program_id(0) * stride).to(triton.language.int64)
    triton.language.store(x + at, 1.0)


@pytest.mark.parametrize("narrow", [_narrow, _widened_too_late])
def test_a_narrow_offset_is_seen(narrow: Any) -> None:
    assert narrow_offsets(ttir(_launch.Launch(narrow, (1,), (torch.empty(99), 17, 3), {})))


def loaded_after_stored(source: str) -> list[str]:
    """Functions that both store to and load from one pointer, by the leftmost name of the address."""
    found = []
    for function in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)):
        aliases = {
            target.id: node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

        def pointer(address: ast.expr, depth: int = 0, aliases: dict[str, ast.expr] = aliases) -> str:
            while isinstance(address, (ast.BinOp, ast.Subscript)):
                address = address.left if isinstance(address, ast.BinOp) else address.value
            name = address.id if isinstance(address, ast.Name) else ""
            return pointer(aliases[name], depth + 1) if name in aliases and depth < 9 else name

        accesses: dict[str, set[str]] = {"load": set(), "store": set()}
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in accesses:
                accesses[node.func.attr].add(pointer(node.args[0]))
        if accesses["load"] & accesses["store"]:
            found.append(function.name)
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_no_address_is_stored_and_loaded_by_one_kernel(module: Any) -> None:
    assert loaded_after_stored(Path(module.__file__).read_text()) == []


def test_a_load_of_what_was_stored_is_seen() -> None:
    bad = "def kernel(x, out):\n    at = out + 3\n    tl.store(at, 1.0)\n    tl.store(x, tl.load(out + 3))\n"
    assert loaded_after_stored(bad) == ["kernel"]
    assert loaded_after_stored(bad.replace("load(out", "load(y")) == []


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(8)
        self.logits = torch.nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return afa_kernels.attentive_fusion(x, x.relu(), self.logits(x), x.mean((2, 3), keepdim=True))


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool]]]:
    """What is compiled, by name and whether only that; what is only compiled is loaded too."""
    found: list[tuple[str, bool]] = []
    compiled = mock.MagicMock(spec=("_init_handles", "__getitem__"))

    def run(kernel: JITFunction, *arguments: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> Any:
        found.append((kernel.__name__, warmup))
        return compiled

    monkeypatch.setattr(backends, "_triton_interpreted", lambda: True)
    monkeypatch.setattr(JITFunction, "run", run)
    yield found
    assert compiled._init_handles.call_count == sum(warmup for _, warmup in found)


def test_warmup_compiles_what_a_model_needs(compilations: list[tuple[str, bool]]) -> None:
    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with afa_kernels.use_backend("triton"):
        assert afa_kernels.warmup(model, torch.randn(2, 8, 6, 5)) == 3
    assert compilations == [(name, True) for name in ("_forward_kernel", "_backward_kernel", "_channel_kernel")]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


WARMED_UP = ("attentive_fusion", "bn_relu_conv2d", "progressive_fusion", "global_avg_max_pool")


@pytest.mark.parametrize("case", {c.op: c for c in LARGE_CASES if c.op in WARMED_UP}.values(), ids=str)
def test_warmup_prepares_the_launches_of_an_operation(case: Case, compilations: list[tuple[str, bool]]) -> None:
    arguments = case.unfilled(torch.float32)
    for tensor in torch.utils._pytree.tree_leaves(arguments):
        tensor.requires_grad_()
    with afa_kernels.use_backend("triton"):
        prepared = case.bind(functools.partial(afa_kernels.warmup, getattr(afa_kernels, case.op)))(*arguments)
    assert prepared == len(compilations) == len(offline.launches(case, torch.float32))


def test_warmup_goes_on_where_a_number_is_read(compilations: list[tuple[str, bool]]) -> None:
    """The number itself where the tensor is one; the counter of the batches counts on a copy."""
    norm, found = torch.nn.BatchNorm2d(2, momentum=None), []

    class Reading(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: Tensor, eps: Tensor) -> Any:
            found.extend((float(eps), float(x.mean()), bool((x > 0).any())))
            return afa_kernels.scale_space_weights(self.norm(x))

    with afa_kernels.use_backend("triton"):
        assert afa_kernels.warmup(Reading(), torch.randn(2, 2, 6, 5), torch.tensor(0.25)) == 2
    assert found == [0.25, 1.0, False]
    assert norm.num_batches_tracked == 0


def test_a_launch_is_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all arguments that differ in addresses alone, of the same alignment."""
    looked_up, started = [], []

    class Compiled:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *arguments: started.append((grid, arguments))

    def run(kernel: JITFunction, *arguments: Any, grid: tuple[int, ...], **options: Any) -> Compiled:
        looked_up.append((grid, arguments, options))
        return Compiled()

    @triton.jit
    def kernel(x, maps, size, BLOCK: tl.constexpr, doubled: tl.constexpr):
        pass

    monkeypatch.setattr(JITFunction, "run", run)
    x = torch.empty(32)
    for y in (x, torch.empty(99), x[4:], x[1:]):
        _launch.launch(kernel, (3, 2), y, (x, x), 7, BLOCK=16, doubled=True, num_warps=1)
    assert len(looked_up) == 2  # and for another alignment
    assert [grid for grid, _ in started] == [(3, 2, 1)] * 2
    assert started[1][1][0].data_ptr() == x[4:].data_ptr() and started[1][1][2:] == (7, 16, True)
    others: list[dict[str, Any]] = [{"x": x.double()}, {"maps": (x,)}, {"maps": (x, x[1:])}, {"size": 8}, {"BLOCK": 32}]
    for other in others:
        given = {"x": x, "maps": (x, x), "size": 7, "BLOCK": 16, **other}
        _launch.launch(
            kernel, (3, 2), given["x"], given["maps"], given["size"], BLOCK=given["BLOCK"], doubled=True, num_warps=1
        )
    assert len(looked_up) == 2 + len(others) and len(started) == 2
    for _ in range(_launch.MOST_PLANS):
        _launch.launch(kernel, (3, 2), x, (x, x), len(looked_up) + 99, BLOCK=16, doubled=True, num_warps=1)
    assert len(_launch._plans) <= _launch.MOST_PLANS


def test_launches_of_other_threads_are_not_hooked(compilations: list[tuple[str, bool]]) -> None:
    """Nor are those of other libraries in this one."""
    arguments = torch.empty(99), 17, 3
    with _launch.hooked(lambda made: pytest.fail("hooked")):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(_launch.launch, _narrow, (1,), *arguments).result()
        _narrow[(1,)](*arguments)
        _launch.Launch(_narrow, (1,), arguments, {}).compile()
    with _launch.hooked(_launch.Launch.compile):
        _launch.launch(_narrow, (1,), *arguments)
    assert compilations == [("_narrow", False)] * 2 + [("_narrow", True)] * 2


def test_warmup_of_other_backends_compiles_nothing() -> None:
    x = torch.empty(1, 2, 3, 4)
    with afa_kernels.use_backend("reference"):
        assert afa_kernels.warmup(afa_kernels.scale_space_weights, x) == 0
