"""Draw where the weights of two scales have a gradient to their own logits: docs/images/gradients.png.

python -m examples.gradient_figure [--output FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LogNorm
from torch import Tensor

import afa_kernels

PHI = ("abs", "relu", "softplus")
LIMIT = 8.0


def own_derivatives(phi: str, side: Tensor) -> Tensor:
    """|dw_k/dy_k| of k = 1, 2 over the plane of y1 (rows) and y2 (columns), which are the values of `side`."""
    plane = torch.stack(torch.meshgrid(side, side, indexing="ij"))[None].requires_grad_()
    weights, _ = afa_kernels.scale_space_weights(plane, phi=phi)
    gradients = [torch.autograd.grad(weights[:, k].sum(), plane, retain_graph=True)[0][0, k] for k in range(2)]
    return torch.stack(gradients).abs()


def draw(output: Path) -> None:
    side = torch.linspace(-LIMIT, LIMIT, 201, dtype=torch.float64)
    figure, axes = plt.subplots(2, len(PHI), figsize=(9, 6), sharex=True, sharey=True, layout="constrained")
    colours = plt.get_cmap("viridis").with_extremes(bad="black", under="black")
    for column, phi in enumerate(PHI):
        for row, derivative in enumerate(own_derivatives(phi, side)):
            axis = axes[row, column]
            image = axis.pcolormesh(side, side, derivative, cmap=colours, norm=LogNorm(1e-6, 1), rasterized=True)
            axis.set_title(f"|dw{row + 1}/dy{row + 1}|, {phi}")
            axis.set_aspect("equal")
            if row == 1:
                axis.set_xlabel("y2, the logit behind")
            if column == 0:
                axis.set_ylabel("y1, the logit in front")
    figure.colorbar(image, ax=axes, label="black: below 1e-6, or 0", shrink=0.7)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images/gradients.png"))
    draw(parser.parse_args().output)
