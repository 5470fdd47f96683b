"""Networks at several scales of the image, fused into one prediction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afa_kernels import checks
from afa_kernels.nn.attention import Norm, SpatialAttention
from afa_kernels.ops.hierarchical_fusion import hierarchical_fusion
from afa_kernels.ops.scale_space_accumulate import scale_space_accumulate
from afa_kernels.ops.scale_space_labels import scale_space_labels
from afa_kernels.ops.scale_space_render import scale_space_render
from afa_kernels.renderer import ScaleSpaceRenderer

FUSE = ("ssr", "hma", "mean")


class ScaleSpaceRendering(SpatialAttention):
    """Scale-space rendering with its attention head, which predicts the logits of each scale from its features.

    The features of every scale are resized to those of scale 1.0 and go through one head, coarse to fine, whose norm
    so sees a batch for each scale; then `scale_space_render` with phi="abs".

    Args:
        channels: of the features.
        bottleneck_channels: between the head's convolutions; default, `channels`.
        norm: as in `SpatialAttention`.

    State dict: that of the official scale_space_attn.

    >>> import torch, afa_kernels.nn
    >>> fuse = afa_kernels.nn.ScaleSpaceRendering(8)
    >>> predictions = [torch.randn(1, 19, 16, 32), torch.randn(1, 19, 32, 64)]
    >>> features = [torch.randn(1, 8, 8, 16), torch.randn(1, 8, 16, 32)]
    >>> fuse(predictions, features, scales=(0.5, 1.0)).shape
    torch.Size([1, 19, 32, 64])
    """

    def __init__(self, channels: int, bottleneck_channels: int | None = None, norm: Norm = "bn") -> None:
        super().__init__(channels, 1, bottleneck_channels, activation=None, norm=norm)

    def forward(  # type: ignore[override]
        self,
        predictions: Sequence[Tensor],
        features: Sequence[Tensor],
        scales: Sequence[float],
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Of predictions (N, C, h_k, w_k) and features (N, channels, h, w), of any size, of ascending `scales`."""
        checks.ascending("scales", scales, len(predictions))
        one = _index_of_one(scales)
        logits = [self.logits(_resized(f, _size(features[one]))) for f in features]
        return scale_space_render(predictions, logits, size)


class MultiScale(nn.Module):
    """Run a network on the image at several scales and fuse what it predicts, at the image's size.

    In training all scales are kept and fused with gradients. In evaluation mode, without, they run coarse to fine and
    are fused one after the other in the memory of one (`ScaleSpaceRenderer`).

    The image is first resized up to a multiple of `multiple`; at scale s the network gets it resized to
    (floor(s H), floor(s W)). A network compiled by torch.compile may be given; it sees one size for each scale.

    Args:
        network: maps an image (N, 3, h, w) to a prediction (N, C, h', w') of any resolution, and with "ssr" and "hma"
            to a pair of this and features for `head`; or, without a head, logits (N, 1, h'', w'').
        scales: in evaluation mode, ascending.
        fuse: "ssr", by the logits all at the resolution of scale 1.0's, which `scales` must contain; "hma", by
            attention sigmoid(logits) (`hierarchical_fusion`, variant "afa"); or "mean".
        head: maps features to logits, such as `ScaleSpaceRendering(channels)`.
        training_scales: in training; default, `scales`.
        flip: whether to add the flipped image in evaluation mode, and return the mean of both.
        multiple: of which the network needs its image's height and width to be. The official code has 64 in training
            and 128 in evaluation.
        eps: in evaluation mode with "ssr", leave out the scales behind one that lets at most `eps` through anywhere.
        progress: whether to show a bar of the scales (needs tqdm).

    In training the loss of single scales, or one without the rendering, needs what `scales_of(image)` returns:

        predictions, logits = model.scales_of(image)
        loss = scale_space_cross_entropy(predictions, logits, target)

    >>> import torch, afa_kernels.nn
    >>> class Network(torch.nn.Module):
    ...     def forward(self, image):
    ...         features = torch.nn.functional.avg_pool2d(image, 4)
    ...         return features.repeat(1, 6, 1, 1), features
    >>> model = afa_kernels.nn.MultiScale(Network(), (0.5, 1.0, 2.0), head=afa_kernels.nn.ScaleSpaceRendering(3))
    >>> model.eval()(torch.randn(1, 3, 33, 65)).shape
    torch.Size([1, 18, 33, 65])
    """

    def __init__(
        self,
        network: nn.Module,
        scales: Sequence[float],
        fuse: str = "ssr",
        head: nn.Module | None = None,
        training_scales: Sequence[float] | None = None,
        flip: bool = False,
        multiple: int = 1,
        eps: float | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        checks.one_of("fuse", fuse, FUSE)
        training_scales = scales if training_scales is None else training_scales
        for name, given in (("scales", scales), ("training_scales", training_scales)):
            checks.ascending(name, given)
            if fuse == "ssr":
                _index_of_one(given, name)
        checks.pair("multiple", multiple, 1)
        if eps is not None:
            checks.number("eps", eps, 0)
        self.network, self.head, self.fuse = network, head, fuse
        self.scales, self.training_scales = tuple(scales), tuple(training_scales)
        self.flip, self.multiple, self.eps, self.progress = flip, multiple, eps, progress

    def forward(self, image: Tensor) -> Tensor:
        """The fused prediction, (N, C, H, W)."""
        if self.training:
            return self._fused(image)
        with torch.no_grad():
            fused = self._streamed(image)
            if self.flip:
                fused.add_(self._streamed(image.flip(-1)).flip(-1)).mul_(0.5)
            return fused

    @torch.no_grad()
    def labels(
        self, image: Tensor, value: str | None = None, dtype: torch.dtype = torch.int64
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The most likely class of every pixel in evaluation mode, (N, H, W); see `scale_space_labels`."""
        if self.training:
            raise RuntimeError("labels are of evaluation mode: call eval() first")
        fused = self(image)
        opaque = fused.new_full((fused.shape[0], 1, 1, 1), torch.inf)
        return scale_space_labels([fused], opaque, value=value, dtype=dtype)

    def scales_of(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The predictions and logits of every scale, in training of the training scales; no logits with "mean"."""
        scales = self.training_scales if self.training else self.scales
        base = self._base(image)
        results = [self._run(base, scale) for scale in scales]
        predictions = [prediction for prediction, _ in results]
        if self.fuse == "mean":
            return predictions, []
        at = _size(results[_index_of_one(scales)][1]) if self.fuse == "ssr" else None
        return predictions, [self._logits(features, at) for _, features in results]

    def _fused(self, image: Tensor) -> Tensor:
        predictions, logits = self.scales_of(image)
        size = _size(image)
        if self.fuse == "ssr":
            return scale_space_render(predictions, logits, size)
        if self.fuse == "hma":
            attentions = [y.sigmoid() for y in logits]
            return hierarchical_fusion(predictions, attentions, self.training_scales, size=size)
        return torch.stack([_resized(p, size) for p in predictions]).mean(0)

    def _streamed(self, image: Tensor) -> Tensor:
        base = self._base(image)
        if self.fuse == "mean":
            return self._mean(base, _size(image))
        options = {"phi": "softplus", "background": "last", "resize": "opacities"} if self.fuse == "hma" else {}
        renderer = ScaleSpaceRenderer(_size(image), **options)
        # scale 1.0 runs first: the logits of all scales are made at the resolution of its features
        known = {1.0: self._run(base, 1.0)} if self.fuse == "ssr" else {}
        at = _size(known[1.0][1]) if known else None
        for scale in self._shown(self.scales):
            prediction, features = known.pop(scale) if scale in known else self._run(base, scale)
            renderer.add(prediction, self._logits(features, at), last=scale == self.scales[-1])
            if self.eps is not None and self.fuse == "ssr" and renderer.opaque(self.eps):
                break
        return renderer.render()

    def _mean(self, base: Tensor, size: tuple[int, int]) -> Tensor:
        mean: Tensor | None = None
        for scale in self._shown(self.scales):
            prediction, _ = self._run(base, scale)
            dtype = torch.promote_types(prediction.dtype, torch.float32)
            first = mean is None
            if mean is None:
                mean = prediction.new_empty((*prediction.shape[:2], *size), dtype=dtype)
            share = mean.new_full((mean.shape[0], 1, 1, 1), 1 / len(self.scales))
            scale_space_accumulate(mean, None, prediction, share, first)
        assert mean is not None
        return mean

    def _base(self, image: Tensor) -> Tensor:
        checks.floating("image", image)
        checks.pixels("image", image)
        height, width = (math.ceil(side / self.multiple) * self.multiple for side in image.shape[2:])
        return _resized(image, (height, width))

    def _run(self, base: Tensor, scale: float) -> tuple[Tensor, Any]:
        """The network's prediction at a scale, and its features or logits if it has any."""
        size = math.floor(scale * base.shape[2]), math.floor(scale * base.shape[3])
        if min(size) < 1:
            raise ValueError(f"image of {base.shape[2]} x {base.shape[3]} pixels has none left at scale {scale}")
        result = self.network(_resized(base, size))
        if isinstance(result, Tensor) and self.fuse == "mean":
            return result, None
        if not isinstance(result, (tuple, list)) or len(result) < 2:
            wanted = "features" if self.head is not None else "logits"
            raise TypeError(f"network must return a pair (prediction, {wanted}), got {type(result).__name__}")
        return result[0], result[1]

    def _logits(self, features: Tensor, at: tuple[int, int] | None) -> Tensor:
        """Of one scale, from features that are first resized."""
        if at is not None:
            features = _resized(features, at)
        if self.head is None:
            return features
        return self.head.logits(features) if isinstance(self.head, SpatialAttention) else self.head(features)

    def _shown(self, scales: Sequence[float]) -> Iterator[float]:
        if not self.progress:
            return iter(scales)
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise ImportError("progress=True needs tqdm: pip install tqdm") from error
        return iter(tqdm(scales, unit="scale"))


def _index_of_one(scales: Sequence[float], name: str = "scales") -> int:
    for i, scale in enumerate(scales):
        if scale == 1:
            return i
    raise ValueError(f"{name} must contain 1.0, at whose resolution the logits are made, got {tuple(scales)}")


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if _size(x) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
