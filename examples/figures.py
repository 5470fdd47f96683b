"""Pictures beside one another."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes


def draw_panels(
    path: Path, title: str, panels: dict[str, np.ndarray], rows: tuple[int, ...], cmap: str | None, label: str | None
) -> None:
    """Draw images (H, W) in [0, 1] or (H, W, 3) in rows of so many panels, by name, with one colour bar for all.

    Without a label there is no colour bar.

    All lengths are in inches.
    """
    width, margin, gap, header, caption = 11.0, 0.15, 0.15, 0.45, 0.34
    footer = margin if label is None else 0.62
    aspect = max(image.shape[0] / image.shape[1] for image in panels.values())
    panel_widths = [(width - 2 * margin - (columns - 1) * gap) / columns for columns in rows]
    height = header + sum(caption + aspect * panel_width for panel_width in panel_widths) + footer
    figure = plt.figure(figsize=(width, height))
    figure.text(margin / width, 1 - 0.16 / height, title, fontsize=14, weight="bold", va="top")

    def add_axes(left: float, top: float, w: float, h: float) -> Axes:
        return figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))

    remaining = iter(panels.items())
    top = header
    for columns, panel_width in zip(rows, panel_widths, strict=True):
        top += caption
        for column in range(columns):
            name, image = next(remaining)
            axes = add_axes(margin + column * (panel_width + gap), top, panel_width, aspect * panel_width)
            mappable = axes.imshow(image, cmap=cmap, vmin=0, vmax=1, aspect="auto")
            axes.set_title(name, fontsize=11, loc="left", pad=4)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color="0.75", linewidth=0.6)
        top += aspect * panel_width

    if label is not None:
        colorbar = figure.colorbar(mappable, cax=add_axes(margin, top + 0.2, 3.4, 0.1), orientation="horizontal")
        colorbar.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])
        colorbar.ax.tick_params(labelsize=9, length=2)
        colorbar.outline.set(edgecolor="0.75", linewidth=0.6)
        colorbar.ax.text(1.06, 0.5, label, transform=colorbar.ax.transAxes, fontsize=10, va="center")
    figure.savefig(path, dpi=100)
    plt.close(figure)
