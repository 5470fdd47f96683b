"""What every network for segmentation here is: scores, labels and losses of images, at one or several scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afa_kernels import checks
from afa_kernels.models.heads import Scores
from afa_kernels.nn import plain
from afa_kernels.nn.multiscale import MultiScale
from afa_kernels.nn.resizing import size_of
from afa_kernels.ops._registration import values_are_there
from afa_kernels.ops.resized_labels import resized_labels
from afa_kernels.ops.scale_space_cross_entropy import scale_space_cross_entropy

Criterion = Callable[[Tensor, Tensor], Tensor]
Auxiliary = tuple[float, list[Scores], list[Tensor]]  # a loss's weight; scores of each scale, and their weights


class Segmentation(MultiScale):
    """The interface of whole networks; a subclass has the layers.

        model(images)                    scores (N, K, H, W) at the size of the images
        model.eval().labels(images)      the most likely class of every pixel, (N, H, W)
        model.losses(images, targets)    a dictionary of weighted losses, whose sum is minimised

    Images (N, 3, H, W) are resized up to multiples of 128, in training of 64, and scores to the images. Scores are
    log-probabilities (of several scales, weighted sums of these), with OCR logits: softmax makes probabilities of both.

    Args:
        num_classes: K.
        criterion: of scores (N, K, H, W) and targets (N, H, W); default, nn.CrossEntropyLoss(ignore_index=255).
        auxiliary_criterion: of the auxiliary losses; default, `criterion`.
        fused_losses: compute criteria, which must be nn.CrossEntropyLoss, by `scale_space_cross_entropy`: the same
            losses, without the scores and their softmax at full resolution. False is the official order.
        scales, training_scales, fuse, flip, eps, progress: as in `MultiScale`.
        channels_last: whether to compute in this memory format whatever that of the images is; None for evaluation on
            the CPU, where it is faster. In training float32 rounds otherwise in it.
        auxiliary_weight: of the losses of the auxiliary heads.
        scale_weight: of the losses of single scales.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        criterion: Criterion | None = None,
        auxiliary_criterion: Criterion | None = None,
        fused_losses: bool = False,
        scales: Sequence[float] = (1.0,),
        training_scales: Sequence[float] | None = None,
        fuse: str = "mean",
        flip: bool = False,
        eps: float | None = None,
        progress: bool = False,
        channels_last: bool | None = None,
        auxiliary_weight: float = 0.05,
        scale_weight: float = 0.05,
    ) -> None:
        self.num_classes: int = checks.integer("num_classes", num_classes)
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        super().__init__(None, scales, fuse, None, training_scales, flip, 128, eps, progress, training_multiple=64)
        self.criterion: Criterion = nn.CrossEntropyLoss(ignore_index=255) if criterion is None else criterion
        self.auxiliary_criterion: Criterion = self.criterion if auxiliary_criterion is None else auxiliary_criterion
        self.auxiliary_weight: float = float(auxiliary_weight)
        self.scale_weight: float = float(scale_weight)
        self.fused_losses: bool = bool(fused_losses)
        self.channels_last: bool | None = channels_last
        if self.fused_losses:
            _check_fusable("criterion", self.criterion)
            _check_fusable("auxiliary_criterion", self.auxiliary_criterion)

    def describe(self, image: Tensor) -> tuple[Any, ...]:
        """`Scores` of an image at one scale, what `attend` takes if there are several, and what `auxiliary` needs."""
        raise NotImplementedError

    def auxiliary(self, results: list[tuple[Any, ...]], weights: list[Tensor]) -> dict[str, Auxiliary]:
        """The auxiliary losses by their names, of what `run_scales` returns."""
        return {}

    def _base(self, image: Tensor) -> Tensor:
        base, wanted = super()._base(image), self.channels_last
        if wanted is None:  # the CPU's convolutions are about twice as fast in it
            wanted = not self.training and base.device.type == "cpu" and base.dtype != torch.float64
        return base.contiguous(memory_format=torch.channels_last) if wanted else base

    def predict(self, image: Tensor) -> tuple[Any, ...]:
        scores, *features = self.describe(image)[:2]  # without what the auxiliary losses need
        return scores.full(), *features

    @torch.no_grad()
    def labels(
        self, image: Tensor, *, value: str | None = None, dtype: torch.dtype = torch.int64
    ) -> Tensor | tuple[Tensor, Tensor]:
        """As `MultiScale.labels`; of one scale, without the scores at the size of the image.

        Where an upsampling is bilinear to exactly that size, it is not computed either: of what comes between it and
        the argmax, log_softmax changes no order, nor do the zeros around the map, which scale all classes alike.
        """
        kind = type(self)
        own = kind.forward is not MultiScale.forward or kind.predict is not Segmentation.predict
        called = own or plain.why_hooked(self) is not None or plain.why_observed() is not None
        one = self.fuse == "mean" and self.scales == (1.0,) and not self.flip
        if self.training or value is not None or called or not one:
            return super().labels(image, value=value, dtype=dtype)
        size, scores = size_of(image), self.describe(self._base(image))[0]
        return resized_labels(scores.low if scores.bilinear_factor(size) else scores.full(), size, dtype=dtype)

    def losses(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Each weighted; their sum is minimised. Of targets (N, H, W), whole numbers, at the size of the images.

        "main_loss" is that of the scores. Networks with auxiliary heads have "dla_aux_loss_0", ..., coarse to fine,
        networks at several scales "scale_0_5", ..., OCR "ocr_aux_loss".
        """
        self._check_targets(images, targets)
        results, weights = self.run_scales(images, self.describe)
        scores = [result[0] for result in results]
        found = {"main_loss": self._loss(self.criterion, scores, weights, targets)}
        wanted: dict[str, Auxiliary] = self.auxiliary(results, weights)
        if self.fuse != "mean":
            for scale, score in zip(self.active_scales, scores):
                wanted["scale_" + str(scale).replace(".", "_")] = self.scale_weight, [score], []
        for name, (share, given, by) in wanted.items():
            found[name] = share * self._loss(self.auxiliary_criterion, given, by, targets)
        return found

    def _loss(self, criterion: Any, scores: list[Scores], weights: list[Tensor], targets: Tensor) -> Tensor:
        """Of one scale, or of several fused by their weights."""
        size = targets.shape[1], targets.shape[2]
        several = len(scores) > 1
        if self.fused_losses and (not several or self.fuse == "ssr"):
            return _fused_loss(criterion, scores, weights if several else None, targets)
        full = [score.full() for score in scores]
        if several:
            return criterion(self.fuse_scales(full, weights, size), targets)
        return criterion(F.interpolate(full[0], size, mode="bilinear", align_corners=False), targets)

    def _check_targets(self, images: Tensor, targets: Tensor) -> None:
        checks.floating("images", images)
        checks.pixels("images", images)
        checks.integral("targets", targets, (torch.uint8, torch.int32, torch.int64), dim=3)
        checks.shape("targets", targets, (images.shape[0], *images.shape[2:]), "images", images)
        for criterion in (self.criterion, self.auxiliary_criterion):
            if isinstance(criterion, nn.CrossEntropyLoss):
                self._check_classes(targets, criterion.ignore_index)

    def _check_classes(self, targets: Tensor, ignore_index: int) -> None:
        """Where the values can be read without waiting for them."""
        if targets.device.type != "cpu" or not values_are_there(targets):
            return
        labels = targets.long()
        wrong = (labels != ignore_index) & ((labels < 0) | (labels >= self.num_classes))
        if bool(wrong.any()):
            raise ValueError(
                f"targets must hold classes from 0 to {self.num_classes - 1} or the criterion's ignore_index "
                f"{ignore_index}, got {labels[wrong][0].item()}"
            )


def _check_fusable(name: str, criterion: Any) -> None:
    if type(criterion) is not nn.CrossEntropyLoss or criterion.label_smoothing or criterion.reduction != "mean":
        raise ValueError(
            f"{name} must be an nn.CrossEntropyLoss of reduction='mean' without label smoothing where "
            f"fused_losses=True, got {criterion}"
        )


def _fused_loss(criterion: Any, scores: list[Scores], logits: list[Tensor] | None, targets: Tensor) -> Tensor:
    """The criterion of the rendering by the logits; without, of one scale, which is then opaque."""
    options = {"weight": criterion.weight, "ignore_index": criterion.ignore_index}
    if logits is not None:
        return scale_space_cross_entropy([score.full() for score in scores], logits, targets, **options)
    (score,) = scores
    opaque = score.low.new_full((score.low.shape[0], 1, 1, 1), torch.inf)
    factor = score.bilinear_factor((targets.shape[1], targets.shape[2]))
    if factor is None:
        return scale_space_cross_entropy([score.full()], opaque, targets, **options)
    # The upsampling is bilinear with zeros around the map, and a second log_softmax changes nothing: the map with these
    # zeros can be given as it is, where the targets around the image do not count.
    around = F.pad(targets, 4 * [factor], value=criterion.ignore_index)
    return scale_space_cross_entropy([F.pad(score.low, (1, 1, 1, 1))], opaque, around, **options)
