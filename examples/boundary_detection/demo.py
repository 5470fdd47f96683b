"""Multi-scale boundary detection on a photograph, its scales fused by scale-space rendering.

HED predicts boundaries of the photograph at 0.5, 1 and 1.5 times its size; `afa_kernels.nn.ScaleSpaceRendering`, whose
head was trained for that (`train.py`), composes the three predictions into one.
"""

from __future__ import annotations

import argparse
import functools
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

import afa_kernels
from afa_kernels.testing import peak_bytes
from examples.boundary_detection.fusion_table import fusion_table
from examples.boundary_detection.fusions import SCALES, load_head
from examples.boundary_detection.hed import load_hed
from examples.boundary_detection.scales import HEDAtAScale, scales_of
from examples.boundary_detection.timing import Contenders, format_ratio, format_table, medians, reason_not_to_compile
from examples.figures import draw_panels


def read_photograph(path: Path | None, long_side: int) -> np.ndarray:
    """Return an RGB photograph (H, W, 3) in uint8, its longer side at most `long_side` pixels."""
    if path is None:
        photograph = Image.fromarray(skimage.data.chelsea())
    else:
        photograph = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if max(photograph.size) > long_side:
        factor = long_side / max(photograph.size)
        width, height = (max(1, round(factor * side)) for side in photograph.size)
        print(f"photograph reduced from {photograph.width} x {photograph.height} to {width} x {height} (--long-side)")
        photograph = photograph.resize((width, height), Image.Resampling.LANCZOS)
    return np.array(photograph)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, h, w) to (N, C, H, W) bilinearly with half-pixel centres."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def render_eager(predictions: list[Tensor], logits: list[Tensor], size: tuple[int, int]) -> Tensor:
    """scale_space_render in the fewest lines of PyTorch."""
    depth = torch.cat(logits, dim=1).abs()
    weights = -torch.expm1(-depth) * torch.exp(depth - depth.cumsum(dim=1))
    weights = resize(weights, size)
    products = (weights[:, k : k + 1] * resize(prediction, size) for k, prediction in enumerate(predictions))
    return functools.reduce(torch.add, products)


def on_backend(name: str, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return `function` with every call made on the named backend of afa_kernels."""

    def call() -> Tensor:
        with afa_kernels.use_backend(name):
            return function()

    return call


def compare_backends(predictions: list[Tensor], logits: list[Tensor], size: tuple[int, int], repeats: int = 30) -> str:
    """Return a table of scale_space_render on every backend, beside eager and compiled PyTorch."""
    device = predictions[0].device
    torch._dynamo.reset()
    compiled = torch.compile(render_eager, dynamic=False)
    contenders: Contenders = {
        "PyTorch, eager": lambda: render_eager(predictions, logits, size),
        "PyTorch, torch.compile": lambda: compiled(predictions, logits, size),
    }
    reason = reason_not_to_compile(contenders["PyTorch, torch.compile"])
    if reason:
        del contenders["PyTorch, torch.compile"]
    for name in afa_kernels.backends.available("scale_space_render", device.type):
        render = on_backend(name, lambda: afa_kernels.scale_space_render(predictions, logits, size=size))
        contenders[f"afa_kernels, {name}"] = render
    with afa_kernels.use_backend("reference"):
        exact = afa_kernels.scale_space_render([p.double() for p in predictions], [y.double() for y in logits], size)
    seconds = medians(contenders, repeats)
    eager, compile_seconds = seconds["PyTorch, eager"], seconds.get("PyTorch, torch.compile")
    rows = [
        [
            name,
            f"{(function() - exact).abs().max().item():.1e}",
            f"{1e3 * seconds[name]:.3f}",
            format_ratio(eager, seconds[name]),
            format_ratio(compile_seconds, seconds[name]),
            f"{peak_bytes(function, str(device)) / 2**20:.2f}",
        ]
        for name, function in contenders.items()
    ]
    if reason:
        rows.insert(1, ["PyTorch, torch.compile", "failed", "failed", "-", "-", "-"])
    lines = [format_table(["", "difference", "ms", "vs eager", "vs compile", "peak MiB"], rows)]
    if reason:
        lines.append(f"torch.compile failed: {reason}")
    lines += [
        f"predictions {', '.join(map(_shape, predictions))}; logits {len(logits)} x {_shape(logits[0])}; "
        f"output {_shape(exact)}",
        f"float32, medians of {repeats} alternating repetitions, {torch.get_num_threads()} threads",
        "difference: the largest from the reference in float64; peak: the most memory a call holds",
    ]
    return "\n".join(lines)


def draw_boundaries(
    path: Path, photograph: np.ndarray, predictions: list[np.ndarray], mean: np.ndarray, rendering: np.ndarray
) -> None:
    """Draw the photograph, the mean over the scales and the rendering above the boundary map of every scale."""
    panels = {"Photograph": photograph, "Mean over the scales": mean, "Scale-space rendering": rendering}
    panels |= {
        f"Scale {scale:g}:  {x.shape[1]} \N{MULTIPLICATION SIGN} {x.shape[0]}": x
        for scale, x in zip(SCALES, predictions, strict=True)
    }
    title = "Boundaries of a photograph at three scales, and fused"
    draw_panels(path, title, panels, (3, 3), "gray_r", "boundary probability")


def draw_weights(path: Path, photograph: np.ndarray, weights: np.ndarray, transmittance: np.ndarray) -> None:
    """Draw the weight (K, H, W) that each scale got and the transmittance (H, W) that is left behind the last."""
    panels = {"Photograph": photograph}
    panels |= {f"Scale {scale:g}:  mean {x.mean():.2f}": x for scale, x in zip(SCALES, weights, strict=True)}
    panels |= {f"Left over:  mean {transmittance.mean():.2f}": transmittance}
    title = "How much each scale contributes to the rendering"
    draw_panels(path, title, panels, (3, 2), "viridis", "weight of the scale, or transmittance left over")


def draw_labels(
    path: Path, photograph: np.ndarray, predictions: list[Tensor], logits: list[Tensor], size: tuple[int, int]
) -> float:
    """Label every pixel boundary or not, without rendering the scores; return the share of boundaries."""
    scores = [torch.cat([1 - p, p], dim=1) for p in predictions]
    labels, score = afa_kernels.scale_space_labels(scores, logits, size, value="score", dtype=torch.uint8)
    panels = {"Photograph": photograph, "Label": labels[0].float().cpu().numpy(), "Its score": score[0].cpu().numpy()}
    draw_panels(path, "Boundary or not, the labels of the rendering", panels, (3,), "gray_r", "label, or its score")
    return labels.float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a photograph of your own (default: the cat of scikit-image)")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="directory for the pictures (default: demo)")
    parser.add_argument("--long-side", type=int, default=640, help="reduce larger photographs to this (default: 640)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--labels", action="store_true", help="also label every pixel, and draw the labels")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)

    print(afa_kernels.backend_info())
    print("\nMulti-scale boundary detection: HED at three scales, coarse to fine")
    try:
        photograph = read_photograph(arguments.image, arguments.long_side)
        network, head = HEDAtAScale(load_hed()).eval().to(device), load_head().to(device)
    except (OSError, ValueError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from error
    image = torch.from_numpy(photograph).to(device).permute(2, 0, 1)[None].float() / 255
    size = photograph.shape[0], photograph.shape[1]

    with torch.inference_mode():
        seen = scales_of(network, image, SCALES, progress=True)
        predictions, logits = seen.predictions, [head.logits(features) for features in seen.features]
        rendering = afa_kernels.scale_space_render(predictions, logits, size=size)
        weights, transmittance = afa_kernels.scale_space_weights(torch.cat(logits, dim=1))
        mean = torch.stack([resize(prediction, size) for prediction in predictions]).mean(dim=0)

        arguments.output.mkdir(parents=True, exist_ok=True)
        draw_boundaries(
            arguments.output / "boundaries.png",
            photograph,
            [prediction[0, 0].cpu().numpy() for prediction in predictions],
            mean[0, 0].cpu().numpy(),
            rendering[0, 0].cpu().numpy(),
        )
        draw_weights(
            arguments.output / "weights.png",
            photograph,
            weights[0].cpu().numpy(),
            transmittance[0, 0].cpu().numpy(),
        )
        print(f"  Pictures: {arguments.output / 'boundaries.png'}, {arguments.output / 'weights.png'}")

        if arguments.labels:
            path = arguments.output / "labels.png"
            share = draw_labels(path, photograph, predictions, logits, size)
            print(f"  scale_space_labels: {100 * share:.1f}% of the pixels are boundaries: {path}")

        print("\nscale_space_render on these predictions (compiling and timing takes seconds)")
        print(compare_backends(predictions, logits, size))

    print("\nattentive_fusion at the levels of DLA-34 on an image of 1024 x 2048 pixels (about a minute)")
    print(fusion_table(device))


def _shape(x: Tensor) -> str:
    return "x".join(map(str, x.shape))


if __name__ == "__main__":
    main()
