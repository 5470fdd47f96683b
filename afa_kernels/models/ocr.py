"""Object-contextual representations: every pixel with a mixture of the classes' features, by its similarity to them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from afa_kernels.nn.norm import Norm, initialise, norm_and_activation


def layers(norm: Norm, *channels: int) -> nn.Sequential:
    """Convolutions of 1x1, each with norm and activation."""
    found: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(channels):
        found += [nn.Conv2d(inputs, outputs, 1, bias=False), norm_and_activation(norm, outputs)]
    return nn.Sequential(*found)


class ObjectContext(nn.Module):
    """Attention of pixels (N, M, H, W), the queries, over classes (N, M, K, 1), keys and values."""

    def __init__(self, channels: int, keys: int, norm: Norm) -> None:
        super().__init__()
        self.f_pixel: nn.Sequential = layers(norm, channels, keys, keys)
        self.f_object: nn.Sequential = layers(norm, channels, keys, keys)
        self.f_down: nn.Sequential = layers(norm, channels, keys)
        self.f_up: nn.Sequential = layers(norm, keys, channels)

    def forward(self, pixels: Tensor, objects: Tensor) -> Tensor:
        query = self.f_pixel(pixels)
        key, value = self.f_object(objects).flatten(2), self.f_down(objects).flatten(2)  # [N, Q, K]
        similarity = torch.einsum("nqhw,nqk->nkhw", query, key) * query.shape[1] ** -0.5
        return self.f_up(torch.einsum("nkhw,nqk->nqhw", similarity.softmax(1), value))


class OCRHead(nn.Module):
    """The context of every pixel, joined to it."""

    def __init__(self, channels: int, keys: int, norm: Norm) -> None:
        super().__init__()
        self.object_context_block: ObjectContext = ObjectContext(channels, keys, norm)
        self.conv_bn_dropout: nn.Sequential = layers(norm, 2 * channels, channels)
        self.conv_bn_dropout.append(nn.Dropout2d(0.05))

    def forward(self, pixels: Tensor, objects: Tensor) -> Tensor:
        return self.conv_bn_dropout(torch.cat([self.object_context_block(pixels, objects), pixels], 1))


class OCR(nn.Module):
    """The head of the official AFADLAOCRSegSSR, of features (N, channels, H, W).

    With u = aux_head(F) and X = conv3x3_ocr(F), the class k is the mean of X weighted by the softmax of u_k over the
    image; G joins to every pixel of X a mixture of the classes. Returns cls_head(G) and u, (N, K, H, W), and G.

    Source: Yuan et al., "Object-Contextual Representations for Semantic Segmentation", ECCV 2020, arXiv 1909.11065.

    >>> import torch
    >>> from afa_kernels.models.ocr import OCR
    >>> [tuple(x.shape) for x in OCR(32, 19, 64, 16)(torch.randn(2, 32, 8, 8))]
    [(2, 19, 8, 8), (2, 19, 8, 8), (2, 64, 8, 8)]
    """

    def __init__(
        self, channels: int, num_classes: int, mid_channels: int = 256, key_channels: int = 128, norm: Norm = "bn"
    ) -> None:
        super().__init__()
        self.conv3x3_ocr: nn.Sequential = nn.Sequential(
            nn.Conv2d(channels, mid_channels, 3, padding=1), norm_and_activation(norm, mid_channels)
        )
        self.ocr_distri_head: OCRHead = OCRHead(mid_channels, key_channels, norm)
        self.cls_head: nn.Conv2d = nn.Conv2d(mid_channels, num_classes, 1)
        self.aux_head: nn.Sequential = nn.Sequential(
            nn.Conv2d(channels, channels, 1), norm_and_activation(norm, channels), nn.Conv2d(channels, num_classes, 1)
        )
        initialise(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels, of_objects = self.conv3x3_ocr(features), self.aux_head(features)
        weights = of_objects.flatten(2).softmax(2)  # [N, K, H W]
        objects = torch.einsum("nkp,nmp->nmk", weights, pixels.flatten(2))[..., None]
        representations = self.ocr_distri_head(pixels, objects)
        return self.cls_head(representations), of_objects, representations
