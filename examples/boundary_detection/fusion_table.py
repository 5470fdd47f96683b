"""How fast attentive_fusion is at the four levels of DLA-34 on an image of 1024 x 2048 pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

import afa_kernels
from examples.boundary_detection.timing import Contenders, format_ratio, format_table, medians, reason_not_to_compile

DLA34_SHAPES = ((1, 32, 512, 1024), (1, 64, 256, 512), (1, 128, 128, 256), (1, 256, 64, 128))
PASSES = ("forward", "training step")

Fusion = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def attentive_fusion_eager(shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor) -> Tensor:
    """attentive_fusion in the fewest lines of PyTorch."""
    spatial, channel = torch.sigmoid(spatial_logits), torch.sigmoid(channel_logits)
    return spatial * (1 - channel) * shallow + (1 - spatial) * channel * deep


def fusion_table(device: torch.device, repeats: int = 9) -> str:
    """Time attentive_fusion, forward and training step, against eager PyTorch and `torch.compile` in float32.

    A training step is the forward pass and the gradients of all four inputs. Returns the table, with the largest
    difference of any output or gradient from eager PyTorch relative to the largest value of that tensor.
    """
    rows: list[list[str]] = []
    ratios: dict[str, list[tuple[float, float | None]]] = {name: [] for name in PASSES}
    notes: list[str] = []
    for shape, pass_name in tqdm([(s, p) for p in PASSES for s in DLA34_SHAPES], "attentive_fusion", disable=None):
        arguments, upstream = _inputs(shape, device, requires_grad=pass_name == "training step")
        torch._dynamo.reset()
        fusions: dict[str, Fusion] = {
            "eager": attentive_fusion_eager,
            "compile": torch.compile(attentive_fusion_eager, dynamic=False),
            "afa_kernels": afa_kernels.attentive_fusion,
        }
        contenders: Contenders = {
            name: _contender(fusion, arguments, upstream, pass_name) for name, fusion in fusions.items()
        }
        reason = reason_not_to_compile(contenders["compile"])
        if reason:
            del contenders["compile"]
            notes.append(reason)
        difference = _relative_difference(contenders["afa_kernels"](), contenders["eager"]())
        seconds = medians(contenders, repeats)
        eager, compiled, ours = seconds["eager"], seconds.get("compile"), seconds["afa_kernels"]
        ratios[pass_name].append((eager / ours, compiled / ours if compiled else None))
        rows.append(
            [
                "x".join(map(str, shape)),
                pass_name,
                f"{1e3 * eager:.2f}",
                f"{1e3 * compiled:.2f}" if compiled else "failed",
                f"{1e3 * ours:.2f}",
                format_ratio(eager, ours),
                format_ratio(compiled, ours),
                f"{difference:.1e}",
            ]
        )
    for pass_name, pairs in ratios.items():
        compiled_ratios = [ratio for _, ratio in pairs if ratio is not None]
        rows.append(
            [
                "geometric mean",
                pass_name,
                "",
                "",
                "",
                f"{_geometric_mean([ratio for ratio, _ in pairs]):.2f}x",
                f"{_geometric_mean(compiled_ratios):.2f}x" if compiled_ratios else "-",
                "",
            ]
        )
    header = ["shape", "pass", "eager ms", "compile ms", "afa_kernels ms", "vs eager", "vs compile", "difference"]
    lines = [format_table(header, rows)]
    lines += [f"torch.compile failed: {reason}" for reason in dict.fromkeys(notes)]
    backend = afa_kernels.backends.available("attentive_fusion", device.type)[0]
    lines += [
        f"afa_kernels on its {backend} backend; float32, medians of {repeats} alternating repetitions, "
        f"{torch.get_num_threads()} threads",
        "difference: the largest of any output or gradient from eager PyTorch, relative to the largest value there",
    ]
    return "\n".join(lines)


def _inputs(
    shape: tuple[int, int, int, int], device: torch.device, requires_grad: bool
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    n, c, h, w = shape
    shallow, deep, spatial_logits, channel_logits, upstream = (
        torch.randn(s, generator=generator, device=device) for s in (shape, shape, (n, 1, h, w), (n, c, 1, 1), shape)
    )
    arguments = (shallow, deep, spatial_logits, channel_logits)
    for argument in arguments:
        argument.requires_grad_(requires_grad)
    return arguments, upstream


def _contender(
    fusion: Fusion, arguments: tuple[Tensor, Tensor, Tensor, Tensor], upstream: Tensor, pass_name: str
) -> Callable[[], tuple[Tensor, ...]]:
    def forward() -> tuple[Tensor, ...]:
        return (fusion(*arguments),)

    def training_step() -> tuple[Tensor, ...]:
        out = fusion(*arguments)
        return (out.detach(), *torch.autograd.grad(out, arguments, upstream))

    return forward if pass_name == "forward" else training_step


def _relative_difference(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    return max(((a - e).abs().max() / e.abs().max()).item() for a, e in zip(actual, expected, strict=True))


def _geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


if __name__ == "__main__":
    print(fusion_table(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
