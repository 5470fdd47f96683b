"""ESPNet in plain PyTorch, for the weights that its authors trained on CamVid.

Sachin Mehta et al., "ESPNet: Efficient Spatial Pyramid of Dilated Convolutions for Semantic Segmentation", ECCV 2018:
0.35 M parameters. Every block reduces its channels, convolves them at five dilations, adds these up from the smallest
to the largest, and concatenates the sums.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WHERE = (
    "The weights are pretrained/decoder/espnet_p_2_q_8_camvid.pth of https://github.com/sacmehta/ESPNet (MIT; not "
    "shipped here)."
)
FEATURES = 12  # channels of what the last layer classifies, at half the image's size
STRIDE = 8  # image sizes must be multiples of it
EPS = 1e-3  # of every norm


class BR(nn.Module):
    """Norm and PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, EPS)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x))


class C(nn.Module):
    """A convolution."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, stride, padding, dilation, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class CBR(BR):
    """A convolution of 3x3, norm and PReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(outputs)
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv(x))


class Pyramid(nn.Module):
    """Channels reduced by `c1`, the five dilated convolutions of these, and their sums, one behind the other."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 1, stride: int = 1) -> None:
        super().__init__()
        width = outputs // 5
        self.c1 = C(inputs, width, kernel_size, stride)
        self.d1 = C(width, outputs - 4 * width, 3)
        self.d2, self.d4, self.d8, self.d16 = (C(width, width, 3, dilation=d) for d in (2, 4, 8, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.c1(x)
        sums = [self.d2(x)]
        for dilated in (self.d4, self.d8, self.d16):
            sums.append(sums[-1] + dilated(x))
        return torch.cat([self.d1(x), *sums], dim=1)


class Down(Pyramid):
    """A pyramid at half the size, with norm and PReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=3, stride=2)
        self.bn = nn.BatchNorm2d(outputs, EPS)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(super().forward(x)))


class Block(Pyramid):
    """A pyramid, `residual` or not, with norm and PReLU."""

    def __init__(self, inputs: int, outputs: int, residual: bool = True) -> None:
        super().__init__(inputs, outputs)
        self.residual = residual
        self.bn = BR(outputs)

    def forward(self, x: Tensor) -> Tensor:
        made = super().forward(x)
        return self.bn(x + made if self.residual else made)


class Encoder(nn.Module):
    """Maps at 1/2, 1/4 and 1/8 of the image, each with what it is made of and the reduced image beside it."""

    def __init__(self, classes: int, blocks: tuple[int, int]) -> None:
        super().__init__()
        self.level1, self.b1 = CBR(3, 16, stride=2), BR(16 + 3)
        self.level2_0, self.level2 = Down(16 + 3, 64), nn.ModuleList(Block(64, 64) for _ in range(blocks[0]))
        self.b2 = BR(2 * 64 + 3)
        self.level3_0, self.level3 = Down(2 * 64 + 3, 128), nn.ModuleList(Block(128, 128) for _ in range(blocks[1]))
        self.b3 = BR(2 * 128)
        self.classifier = C(2 * 128, classes, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        half = F.avg_pool2d(image, 3, stride=2, padding=1)
        fine = self.b1(torch.cat([self.level1(image), half], dim=1))
        first = x = self.level2_0(fine)
        for block in self.level2:
            x = block(x)
        middle = self.b2(torch.cat([x, first, F.avg_pool2d(half, 3, stride=2, padding=1)], dim=1))
        first = x = self.level3_0(middle)
        for block in self.level3:
            x = block(x)
        return fine, middle, self.classifier(self.b3(torch.cat([first, x], dim=1)))


class ESPNet(nn.Module):
    """RGB images (N, 3, H, W) in [0, 1] -> probabilities (N, K, H, W) and features (N, 12, H / 2, W / 2).

    H and W are multiples of 8. The last class, void, is left out.

    Args:
        classes: with void.
        mean, std: of the training images' colours, in [0, 1].

    >>> import torch
    >>> network = ESPNet(12, mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3)).eval()
    >>> probabilities, features = network(torch.rand(1, 3, 48, 64))
    >>> probabilities.shape, features.shape
    (torch.Size([1, 11, 48, 64]), torch.Size([1, 12, 24, 32]))
    """

    mean: Tensor
    std: Tensor

    def __init__(self, classes: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.encoder = Encoder(classes, (2, 8))
        self.br = nn.BatchNorm2d(classes, EPS)
        self.level3_C = C(2 * 64 + 3, classes, 1)
        self.up_l3 = nn.Sequential(nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False))
        self.combine_l2_l3 = nn.Sequential(BR(2 * classes), Block(2 * classes, classes, residual=False))
        self.up_l2 = nn.Sequential(nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False), BR(classes))
        self.conv = CBR(16 + 3 + classes, classes)
        self.classifier = nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        if image.shape[2] % STRIDE or image.shape[3] % STRIDE:
            raise ValueError(f"image sizes must be multiples of {STRIDE}, got {image.shape[2]} x {image.shape[3]}")
        given = ((image - self.mean) / self.std).flip(1) / 255  # the weights are of BGR, divided by 255 twice
        fine, middle, coarse = self.encoder(given)
        coarse = self.up_l3(self.br(coarse))
        features = self.up_l2(self.combine_l2_l3(torch.cat([self.level3_C(middle), coarse], dim=1)))
        features = self.conv(torch.cat([features, fine], dim=1))
        return self.classifier(features)[:, :-1].softmax(1), features


def load_espnet(path: Path, mean: Sequence[float], std: Sequence[float]) -> ESPNet:
    """ESPNet with the weights of `path`, frozen. Raises ValueError with the reason where it has none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = ESPNet(12, mean, std)
        network.load_state_dict(state)
    except (OSError, EOFError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"weights {path} cannot be read as ESPNet's: {reason}. {WHERE}") from error
    return network.eval().requires_grad_(False)
