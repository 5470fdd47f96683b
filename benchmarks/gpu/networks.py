"""networks: modules and an up-path, on afa_kernels and composed as in the official code."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from afa_kernels.models import AFADLAUp, AFALevelFusion
from afa_kernels.nn import AttentiveFusion
from afa_kernels.testing import peak_bytes
from benchmarks.gpu.session import Session, in_processes
from benchmarks.gpu.timing import Timer, microseconds
from benchmarks.networks import CHANNELS, OfficialNorm, on
from benchmarks.ops._shapes import LEVELS, name

# How inference and training are run: the element type that autocast has, or None, and the memory format.
SETTINGS = {
    "float16": (torch.float16, torch.channels_last),
    "float32": (None, torch.contiguous_format),
    "bfloat16": (torch.bfloat16, torch.channels_last),
}
TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1, "float32": 1e-3}  # of inference, in the Euclidean norm
AHEAD = 0.4  # of the budget, for compilations in several processes
Levels = list[Tensor]


class Fused(nn.Module):
    """The module of two feature maps, called with a list as the others are."""

    def __init__(self, channels: int, norm: Any) -> None:
        super().__init__()
        self.fusion = AttentiveFusion(channels, norm=norm)

    def forward(self, levels: Levels) -> Tensor:
        return self.fusion(*levels)


class UpPath(nn.Module):
    def __init__(self, channels: tuple[int, ...], norm: Any) -> None:
        super().__init__()
        self.up = AFADLAUp(channels, [2**i for i in range(len(channels))], norm=norm)

    def forward(self, levels: Levels) -> Tensor:
        return self.up(levels)[-1]


def subjects(quick: bool) -> dict[str, tuple[Callable[[Any], nn.Module], list[tuple[int, ...]]]]:
    """Return modules by a factory of the norm, and the shapes of their levels."""
    found: dict[str, tuple[Callable[[Any], nn.Module], list[tuple[int, ...]]]] = {}
    for shape in [(1, 16, 8, 16)] if quick else LEVELS:
        found[f"nn.AttentiveFusion {name(shape)}"] = functools.partial(Fused, shape[1]), [shape, shape]
    channels, (h, w) = (CHANNELS, (1024, 2048)) if not quick else ((8, 16, 32), (32, 64))
    levels: list[tuple[int, ...]] = [(1, c, h >> (i + 1), w >> (i + 1)) for i, c in enumerate(channels)]
    found[f"AFADLAUp {h}x{w}"] = functools.partial(UpPath, channels), levels
    found[f"AFALevelFusion {h}x{w}"] = lambda norm: AFALevelFusion(channels[2::-1], norm), levels[2::-1]
    return found


def run(session: Session) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    timer = Timer(session.device)
    items: dict[str, Callable[[], None]] = {}
    kinds = (False, True)[: 1 if session.quick else 2]  # compiled later, as it takes longest
    each = [
        Item(subject, setting, training, compiled, session.device, session.quick)
        for setting, compiled, training, subject in itertools.product(
            SETTINGS, kinds, (False, True), subjects(session.quick)
        )
    ]
    for item in each:
        items[str(item)] = functools.partial(measure, session, timer, item)
    if not session.quick:
        halves = [item for item in each if item.setting == "float16"]
        session.go({"compile ahead": lambda: f"{in_processes(prepare, halves, AHEAD * session.budget)} steps"})
    session.go(items)


@dataclass(frozen=True)
class Item:
    """A step of a module on afa_kernels and as the official composition; or `compiled`, the latter compiled."""

    subject: str
    setting: str
    training: bool
    compiled: bool
    device: str
    quick: bool

    def __str__(self) -> str:
        how = f"{self.setting} {'training step' if self.training else 'inference'}"
        return f"{self.subject} {how}{', compiled' if self.compiled else ''}"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [(2 if self.training else 1, *shape[1:]) for shape in subjects(self.quick)[self.subject][1]]

    def contestants(self) -> dict[str, Callable[[], Any]]:
        make = subjects(self.quick)[self.subject][0]
        dtype, memory_format = SETTINGS[self.setting]
        torch.manual_seed(0)
        levels = [
            torch.randn(shape, device=self.device).to(memory_format=memory_format).requires_grad_(self.training)
            for shape in self.shapes
        ]
        ours, official = (make(norm) for norm in ("bn", OfficialNorm))
        for model in (ours, official):
            model.to(device=self.device).to(memory_format=memory_format).train(self.training)  # type: ignore[call-overload]
        official.load_state_dict(ours.state_dict())

        @contextlib.contextmanager
        def running(backend: str | None) -> Iterator[None]:
            with on(backend), torch.autocast(self.device, dtype or torch.bfloat16, enabled=dtype is not None):
                yield

        def step(model: Any, backend: str | None) -> Any:
            with running(backend):
                if not self.training:
                    with torch.no_grad():
                        return model(levels)
                return torch.autograd.grad(
                    model(levels).float().square().mean(), [*levels, *model.parameters()], allow_unused=True
                )

        torch.compiler.reset()
        found: dict[str, Callable[[], Any]] = {"official composition": functools.partial(step, official, "official")}
        if self.compiled:
            compiled_official: Any = torch.compile(official, dynamic=False)
            found["official composition, compiled"] = functools.partial(step, compiled_official, "official")
        else:
            found["afa_kernels"] = functools.partial(step, ours, None)
        return found


def prepare(item: Item) -> int:
    *_, last = item.contestants().values()
    last()
    return 1


def measure(session: Session, timer: Timer, item: Item) -> None:
    dtype, memory_format = SETTINGS[item.setting]
    described = {
        "op": item.subject,
        "pass": "training step" if item.training else "inference",
        "shape": name(item.shapes[0]),
        "dtype": item.setting,
        "layout": "NCHW" if memory_format == torch.contiguous_format else "channels_last",
    }
    values: dict[str, list[Tensor]] = {}
    for who, call in item.contestants().items():
        try:
            result = call()
        except Exception as error:
            session.record(**described, backend=who, refused=f"{type(error).__name__}: {error}"[-2000:])
            continue
        results = [t.double() for t in result if t is not None] if item.training else [result.double()]
        values[who] = [] if item.training and dtype is not None else results  # rounding adds up in gradients of halves
        reason = _why_wrong(values, who, (10 if item.training else 1) * TOLERANCE[item.setting])
        if reason is not None:
            session.record(**described, backend=who, refused=reason)
            continue
        del result, results
        if item.compiled and who == "official composition":  # which has its numbers
            continue
        found: dict[str, Any] = {**microseconds(timer.gpu(call)), "cpu_us": round(1e6 * timer.cpu(call), 3)}
        session.record(**described, backend=who, **found, peak_bytes=peak_bytes(call, item.device))


def _why_wrong(values: dict[str, list[Tensor]], who: str, allowed: float) -> str | None:
    """Compare with the official composition in the Euclidean norm of everything together."""
    expected = values.get("official composition")
    if expected is None:
        return "there is no official composition to compare with"
    off, size = (
        sum(float(t.norm() ** 2) for t in some) ** 0.5
        for some in ([f - e for f, e in zip(values[who], expected, strict=True)], expected)
    )
    return None if off <= allowed * size else f"a difference of {off:.3g} from what has the norm {size:.3g}"
