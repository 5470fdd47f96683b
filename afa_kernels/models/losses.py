"""The losses of the official training: binary cross-entropy, that of boundaries, and region mutual information."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afa_kernels import checks


class BinaryCrossEntropy(nn.Module):
    """Every class against all others, summed over classes, the mean over the pixels whose label is a class.

        sum over valid pixels and classes of  -w_k y log(sigmoid(s)) - (1 - y) log(1 - sigmoid(s))    / (valid + 1)

    Args:
        num_classes: K; pixels with another label do not count.
        positive_weight: w, one for each class; default 1.

    Takes scores (N, K, H, W) and labels (N, H, W), and returns a scalar.

    >>> import torch
    >>> from afa_kernels.models import BinaryCrossEntropy
    >>> BinaryCrossEntropy(5)(torch.randn(2, 5, 8, 8), torch.randint(5, (2, 8, 8))).shape
    torch.Size([])
    """

    positive_weight: Tensor | None

    def __init__(self, num_classes: int, positive_weight: Sequence[float] | None = None) -> None:
        super().__init__()
        self.num_classes: int = checks.integer("num_classes", num_classes)
        if positive_weight is not None and len(positive_weight) != num_classes:
            raise ValueError(f"positive_weight must have {num_classes} numbers, got {len(positive_weight)}")
        weight = None if positive_weight is None else torch.tensor(positive_weight, dtype=torch.float32)
        self.register_buffer("positive_weight", weight, persistent=False)

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        valid, target = self._targets(scores, labels)
        weight = None if self.positive_weight is None else self.positive_weight.to(scores)[:, None, None]
        loss = F.binary_cross_entropy_with_logits(
            scores, target.to(scores), valid[:, None].to(scores), pos_weight=weight, reduction="sum"
        )
        return loss / (valid.sum() + 1.0)

    def _targets(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Which pixels count, (N, H, W), and the classes one-hot, (N, K, H, W)."""
        checks.floating("scores", scores)
        checks.integral("labels", labels, (torch.uint8, torch.int32, torch.int64), dim=3)
        checks.shape("labels", labels, (scores.shape[0], *scores.shape[2:]), "scores", scores)
        checks.shape("scores", scores, (scores.shape[0], self.num_classes, *scores.shape[2:]), "num_classes", scores)
        valid = (labels >= 0) & (labels < self.num_classes)
        classes = torch.arange(self.num_classes, device=labels.device)[:, None, None]
        return valid, (labels[:, None] == classes) & valid[:, None]


class BoundaryLoss(BinaryCrossEntropy):
    """Binary cross-entropy of two classes, none and boundary, in which a boundary's pixel counts `positive_weight`.

    >>> import torch
    >>> from afa_kernels.models import BoundaryLoss
    >>> BoundaryLoss()(torch.randn(2, 2, 8, 8), torch.randint(3, (2, 8, 8))).shape  # label 2 does not count
    torch.Size([])
    """

    def __init__(self, positive_weight: float = 10.0) -> None:
        super().__init__(2, (1.0, positive_weight))


class RegionMutualInformation(BinaryCrossEntropy):
    """Half binary cross-entropy, half a bound of the mutual information of regions of labels and of probabilities.

    Both are averaged over 4x4 pixels; with Y and P the 3x3 neighbourhoods of a class, 9 rows less their means,

        S = Y Y^T - Y P^T (P P^T + 5e-4 I)^-1 P Y^T        R = sum over classes, mean over images
                                                               of sum log(diag(cholesky(S + 5e-4 I)) + 1e-8) / 9

    in float64. Args, shapes: as in `BinaryCrossEntropy`.

    Source: Zhao et al., "Region Mutual Information Loss for Semantic Segmentation", NeurIPS 2019, arXiv 1910.12037.

    >>> import torch
    >>> from afa_kernels.models import RegionMutualInformation
    >>> RegionMutualInformation(5)(torch.randn(2, 5, 32, 32), torch.randint(5, (2, 32, 32))).shape
    torch.Size([])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        valid, target = self._targets(scores, labels)
        with torch.autocast(scores.device.type, enabled=False):
            y = _regions(target.double())
            p = _regions((scores.sigmoid() * valid[:, None] + 1e-6).double())
            eye = 5e-4 * torch.eye(9, dtype=torch.float64, device=scores.device)
            cross = y @ p.mT
            rest = y @ y.mT - cross @ torch.linalg.solve(p @ p.mT + eye, cross.mT)
            diagonal = torch.linalg.cholesky(rest + eye).diagonal(dim1=-2, dim2=-1)
            bound = torch.log(diagonal + 1e-8).sum(-1).mean(0).sum() / 9
        loss = super().forward(scores, labels)
        return 0.5 * loss + 0.5 * bound.to(loss)


def _regions(maps: Tensor) -> Tensor:
    """The 3x3 neighbourhoods of averages over 4x4 pixels, less their means: (N, K, 9, positions)."""
    averages = F.avg_pool2d(maps, 4, stride=4, padding=2)
    if min(averages.shape[2:]) < 3:
        raise ValueError(f"scores must have at least 8 x 8 pixels, got shape {tuple(maps.shape)}")
    regions = F.unfold(averages.flatten(0, 1)[:, None], 3).unflatten(0, averages.shape[:2])
    return regions - regions.mean(3, keepdim=True)
