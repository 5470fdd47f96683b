"""The official networks composed of PyTorch's own layers, as NETWORKS' baseline: the parameters are our networks'.

Every layer is a module or function of PyTorch that saves for itself, in the official order: all levels are made and
kept, all inputs of an up-path are upsampled before the first is fused, the unused projections of deep trees are
computed, ReLU works in place, scores are resized even to their own size, and every scale's are kept.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize(x: Tensor, size: Any) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class Official(nn.Module):
    """`AFASegmentation` or `AFASegmentationSSR` composed so; `forward` gives scores, `losses` the weighted losses."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.net: Any = copy.deepcopy(model)
        for module in self.net.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True

    def forward(self, images: Tensor) -> Tensor:
        return self.several(images)[0] if self.net.fuse == "ssr" else self.one(images)[0]

    def losses(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        net, criterion = self.net, self.net.criterion
        scores, auxiliary, of_scales = (self.several if net.fuse == "ssr" else self.one)(images)
        losses = {f"dla_aux_loss_{j}": 0.05 * criterion(a, targets) for j, a in enumerate(auxiliary)}
        losses |= {f"scale_{s}".replace(".", "_"): 0.05 * criterion(p, targets) for s, p in of_scales.items()}
        return {**losses, "main_loss": criterion(scores, targets)}

    def one(self, images: Tensor) -> tuple[Tensor, list[Tensor], dict[float, Tensor]]:
        results, features = self.trunk(self.enlarged(images))
        scores = resize(self.head("", features), images.shape[2:])
        auxiliary = []
        if self.training:
            auxiliary = [resize(self.head(f"_{j + 1}", x), images.shape[2:]) for j, x in enumerate(results)]
        return scores, auxiliary, {}

    def several(self, images: Tensor) -> tuple[Tensor, list[Tensor], dict[float, Tensor]]:
        base, size = self.enlarged(images), images.shape[2:]
        scales = self.net.active_scales
        scores, features, results, logits = {}, {}, {}, {}
        for s in (1.0, *(s for s in scales if s != 1)):
            scaled = base if s == 1 else resize(base, (math.floor(s * side) for side in base.shape[2:]))
            of_scale, features[s] = self.trunk(scaled)
            if self.training:
                results[s] = of_scale
            scores[s] = resize(self.head("", features[s]), size)
            features[s] = resize(features[s], features[1.0].shape[2:])
        for s in scales:
            logits[s] = spatial(self.net.scale_space_attn, features[s]).abs()
        fused: Any = 0
        auxiliary: list[Any] = [0] * self.net.auxiliary_heads
        through: Any = 1
        for s in scales:
            weight = resize((1 - torch.exp(-logits[s])) * through, size)
            through = through * torch.exp(-logits[s])
            fused = fused + scores[s] * weight
            if self.training:
                for j, x in enumerate(results[s]):
                    auxiliary[j] = auxiliary[j] + weight * resize(self.head(f"_{j + 1}", x), size)
        return fused, auxiliary if self.training else [], {s: scores[s] for s in scales}

    def enlarged(self, images: Tensor) -> Tensor:
        multiple = 64 if self.training else 128
        return resize(images, (-(-side // multiple) * multiple for side in images.shape[2:]))

    def head(self, name: str, x: Tensor) -> Tensor:
        return F.log_softmax(getattr(self.net, f"up{name}")(getattr(self.net, f"fc{name}")(x)), 1)

    def trunk(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        backbone = self.net.backbone
        results = upward(backbone.afa_dla_up, levels(backbone.base, image)[1:])
        return results, fused(backbone, results[1:])


def levels(dla: Any, image: Tensor) -> list[Tensor]:
    x, found = dla.base_layer(image), []
    for i in range(6):
        level = getattr(dla, f"level{i}")
        x = level(x) if i < 2 else tree(level, x)
        found.append(x)
    return found


def tree(module: Any, x: Tensor, children: tuple[Tensor, ...] = ()) -> Tensor:
    pooled = F.max_pool2d(x, module.stride, module.stride) if module.stride > 1 else x
    residual = module.project(pooled)  # which a deep tree has no use for
    children = (*children, pooled) if module.level_root else children
    if module.deep:
        one = tree(module.tree1, x)
        return tree(module.tree2, one, (*children, one))
    one = block(module.tree1, x, residual)
    two = block(module.tree2, one, one)
    root = module.root
    joined = root.bn(root.conv(torch.cat([two, one, *children], 1)))
    return (joined + two if root.residual else joined).relu_()


def block(module: Any, x: Tensor, residual: Tensor) -> Tensor:
    out = module.bn2(module.conv2(module.bn1(module.conv1(x)).relu_()))
    return out.add_(residual).relu_()


def spatial(module: Any, x: Tensor) -> Tensor:
    return module.final(module.conv_inner(module.conv(x)))


def channel(module: Any, x: Tensor) -> Tensor:
    of_max = module.conv2(module.conv1(F.adaptive_max_pool2d(x, 1)))
    return (of_max + module.conv2(module.conv1(F.adaptive_avg_pool2d(x, 1)))).sigmoid()


def attentive(sa: Any, ca: Any, shallow: Tensor, deep: Tensor) -> Tensor:
    s, c = spatial(sa, shallow).sigmoid(), channel(ca, deep)
    return s * (1 - c) * shallow + (1 - s) * c * deep


def aggregated(module: Any, layers: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    layers = [getattr(module, f"up_{i}")(getattr(module, f"proj_{i}")(x)) for i, x in enumerate(layers)]
    x, found = layers[0], []
    for i, deep in enumerate(layers[1:], 1):
        x = attentive(getattr(module, f"sa_{i}"), getattr(module, f"ca_{i}"), x, deep)
        found.append(x)
    return x, found


def upward(module: Any, layers: list[Tensor]) -> list[Tensor]:
    results = []
    for i in range(module.levels - 1):
        x, layers[-i - 1 :] = aggregated(getattr(module, f"afa_ida_{i}"), layers[-i - 2 :])
        results.append(x)
    return results


def fused(module: Any, results: list[Tensor]) -> Tensor:
    size = results[-1].shape[2:]
    features = [resize(getattr(module, f"proj_{i}")(x), size) for i, x in enumerate(results[:-1], 1)]
    features.append(results[-1])
    s_found: list[Tensor] = []
    c_found: list[Tensor] = []
    for x in features:
        s, c = spatial(module.level_sa, x).sigmoid(), channel(module.level_ca, x)
        s_found = [*(before * (1 - s) for before in s_found), s]
        c_found = [*(before * (1 - c) for before in c_found), c]
    total: Any = 0
    for s, c, x in zip(s_found, c_found, features):
        total = total + s * c * x
    return total
