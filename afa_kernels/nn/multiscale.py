"""Networks at several scales of the image, fused into one prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from afa_kernels import checks
from afa_kernels.nn import plain
from afa_kernels.nn.attention import SpatialAttention
from afa_kernels.nn.norm import Norm
from afa_kernels.nn.resizing import resized_to, size_of
from afa_kernels.ops.hierarchical_fusion import hierarchical_fusion
from afa_kernels.ops.scale_space_accumulate import scale_space_accumulate
from afa_kernels.ops.scale_space_labels import scale_space_labels
from afa_kernels.ops.scale_space_render import scale_space_render
from afa_kernels.renderer import ScaleSpaceRenderer


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
        predictions: Sequence[Tensor] | Tensor,
        features: Sequence[Tensor] | None = None,
        scales: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Of predictions (N, C, h_k, w_k) and features (N, channels, h, w), of any size, of ascending `scales`.

        Of one feature map alone: its logits.
        """
        if features is None or scales is None:
            return self.logits(predictions)  # type: ignore[arg-type]
        checks.sequence("predictions", predictions)
        predictions = list(predictions)
        checks.sequence("features", features)
        checks.ascending("scales", scales, len(predictions))
        if len(features) != len(predictions):
            raise ValueError(f"features must have one tensor for each of the {len(scales)} scales, got {len(features)}")
        at = size_of(features[_index_of_one(scales)])
        return scale_space_render(predictions, [self.logits(resized_to(f, at)) for f in features], size)

    if TYPE_CHECKING:

        def __call__(  # type: ignore[override]
            self,
            predictions: Sequence[Tensor] | Tensor,
            features: Sequence[Tensor] | None = None,
            scales: Sequence[float] | None = None,
            size: tuple[int, int] | None = None,
        ) -> Tensor: ...


@dataclass(frozen=True)
class _Fusing:
    """How predictions become one: all at once with gradients, or one after the other in the memory of one."""

    at_once: Callable[[list[Tensor], list[Tensor], Sequence[float], tuple[int, int]], Tensor]
    streaming: Callable[[tuple[int, int], int], Any]  # by the size and the number of scales; has add and render
    by_logits: bool = True
    at_scale_one: bool = False  # whether the logits of all scales are made at the resolution of that one's features


def _mean(predictions: list[Tensor], _: list[Tensor], scales: Sequence[float], size: tuple[int, int]) -> Tensor:
    total: Tensor | None = None
    for prediction in predictions:
        dtype = torch.promote_types(prediction.dtype, torch.float32)
        resized = resized_to(prediction, size).to(dtype)
        total = resized / len(scales) if total is None else total.add_(resized, alpha=1 / len(scales))
    assert total is not None
    return total


class _StreamingMean:
    def __init__(self, size: tuple[int, int], count: int) -> None:
        self.size, self.count = size, count
        self.mean: Tensor | None = None

    def add(self, prediction: Tensor, logits: None, *, last: bool) -> None:
        first, mean = self.mean is None, self.mean
        if mean is None:
            dtype = torch.promote_types(prediction.dtype, torch.float32)
            mean = prediction.new_empty((*prediction.shape[:2], *self.size), dtype=dtype)
        weight = mean.new_full((mean.shape[0], 1, 1, 1), 1 / self.count)
        scale_space_accumulate(mean, None, prediction, weight, first)
        self.mean = mean

    def render(self) -> Tensor:
        assert self.mean is not None
        return self.mean


FUSE = {
    "ssr": _Fusing(
        lambda predictions, logits, _, size: scale_space_render(predictions, logits, size),
        lambda size, _: ScaleSpaceRenderer(size),
        at_scale_one=True,
    ),
    "hma": _Fusing(
        lambda predictions, logits, scales, size: hierarchical_fusion(
            predictions, [y.sigmoid() for y in logits], scales, size=size
        ),
        lambda size, _: ScaleSpaceRenderer(size, phi="softplus", background="last", resize="opacities"),
    ),
    "mean": _Fusing(_mean, _StreamingMean, by_logits=False),
}


class MultiScale(plain.Module):
    """Run a network on the image at several scales and fuse what it predicts, at the image's size.

    In training all scales are kept and fused with gradients. In evaluation mode, without, they run coarse to fine and
    are fused one after the other in the memory of one (`ScaleSpaceRenderer`). An exported program, of torch.export or
    ONNX, fuses them all at once, and is for every size of image; one of torch.jit.trace is for the size it was given.

    The image is first resized up to a multiple of `multiple`; at scale s the network gets it resized to
    (floor(s H), floor(s W)). A network compiled by torch.compile may be given; it sees one size for each scale.

    Args:
        network: maps an image (N, 3, h, w) to a prediction (N, C, h', w') of any resolution, and with "ssr" and "hma"
            to a pair of this and features for `head`; or, without a head, logits (N, 1, h'', w'').
        scales: in evaluation mode, ascending.
        fuse: "ssr", by the logits all at the resolution of scale 1.0's, which `scales` must contain; "hma", by
            attention sigmoid(logits) (`hierarchical_fusion`, variant "afa"); or "mean".
        head: maps features to logits, such as `ScaleSpaceRendering(channels)`, or `SpatialAttention(channels)`.
        training_scales: in training; default, `scales`.
        flip: whether to add the flipped image in evaluation mode, and return the mean of both.
        multiple: of which the network needs its image's height and width to be, or a pair of them. The official code
            has 64 in training and 128 in evaluation.
        eps: in evaluation mode with "ssr", leave out the scales behind one that lets at most `eps` through anywhere.
            An exported program runs them all.
        progress: whether to show a bar of the scales (needs tqdm).
        outputs: makes what is said of `network` above of what it returns, such as
            `lambda result: (result["out"], result["features"])`.

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
        multiple: int | tuple[int, int] = 1,
        eps: float | None = None,
        progress: bool = False,
        outputs: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__()
        checks.one_of("fuse", fuse, tuple(FUSE))
        training_scales = scales if training_scales is None else training_scales
        for name, given in (("scales", scales), ("training_scales", training_scales)):
            checks.ascending(name, given)
            if FUSE[fuse].at_scale_one:
                _index_of_one(given, name)
        checks.pair("multiple", multiple, 1)
        if eps is not None:
            checks.number("eps", eps, 0)
        if outputs is not None and not callable(outputs):
            raise TypeError(f"outputs must be a function of what the network returns, got {type(outputs).__name__}")
        self.network: nn.Module = network
        self.head: nn.Module | None = head
        self.fuse: str = fuse
        self.scales: tuple[float, ...] = tuple(map(float, scales))
        self.training_scales: tuple[float, ...] = tuple(map(float, training_scales))
        self.flip: bool = flip
        self.multiple: int | tuple[int, int] = multiple
        self.eps: float | None = eps
        self.progress: bool = progress
        self.outputs: Callable[[Any], Any] | None = outputs

    def forward(self, image: Tensor) -> Tensor:
        """The fused prediction, (N, C, H, W)."""
        if isinstance(image, fx.Proxy):
            return plain.as_leaf(self, image)
        if self.training:
            return self._at_once(image)
        if torch.compiler.is_exporting():  # a graph of operations alone, which no_grad and what works in place are not
            fused = self._at_once(image)
            if self.flip:
                fused = (fused + self._at_once(image.flip(-1)).flip(-1)) * 0.5
            return fused.to(torch.promote_types(fused.dtype, torch.float32))
        with torch.no_grad(), plain.without_tracer_warnings():
            fused = self._streamed(image)
            if self.flip:
                fused.add_(self._streamed(image.flip(-1)).flip(-1)).mul_(0.5)
            return fused

    if TYPE_CHECKING:

        def __call__(self, image: Tensor) -> Tensor: ...

    @torch.no_grad()
    def labels(
        self, image: Tensor, *, value: str | None = None, dtype: torch.dtype = torch.int64
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The most likely class of every pixel in evaluation mode, (N, H, W); see `scale_space_labels`."""
        if self.training:
            raise RuntimeError("labels are of evaluation mode: call eval() first")
        fused = self(image)
        opaque = fused.new_full((fused.shape[0], 1, 1, 1), torch.inf)
        return scale_space_labels([fused], opaque, value=value, dtype=dtype)

    def scales_of(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The predictions and logits of every scale, in training of the training scales; no logits with "mean"."""
        scales, fusing = self.training_scales if self.training else self.scales, FUSE[self.fuse]
        base = self._base(image)
        predictions, features = map(list, zip(*(self._run(base, scale) for scale in scales)))
        if not fusing.by_logits:
            return predictions, []
        at = size_of(features[_index_of_one(scales)]) if fusing.at_scale_one else None
        return predictions, [self._logits(f, at) for f in features]

    def _at_once(self, image: Tensor) -> Tensor:
        scales = self.training_scales if self.training else self.scales
        return FUSE[self.fuse].at_once(*self.scales_of(image), scales, size_of(image))

    def _streamed(self, image: Tensor) -> Tensor:
        fusing, scales, base = FUSE[self.fuse], self.scales, self._base(image)
        stream = fusing.streaming(size_of(image), len(scales))
        # Scale 1.0 runs first: the logits of all scales are made at the resolution of its features.
        known = self._run(base, 1.0) if fusing.at_scale_one else None
        at = None if known is None else size_of(known[1])
        for k, scale in enumerate(self._shown(scales)):
            if known is not None and scale == 1:
                (prediction, features), known = known, None
            else:
                prediction, features = self._run(base, scale)
            logits = self._logits(features, at) if fusing.by_logits else None
            stream.add(prediction, logits, last=k == len(scales) - 1)
            if self.eps is not None and fusing.at_scale_one and stream.opaque(self.eps):
                break
        return stream.render()

    def _base(self, image: Tensor) -> Tensor:
        checks.floating("image", image)
        checks.pixels("image", image)
        multiples = checks.pair("multiple", self.multiple, 1)
        height, width = (side + (m - side % m) % m for side, m in zip(size_of(image), multiples))
        return resized_to(image, (height, width))

    def _run(self, base: Tensor, scale: float) -> tuple[Tensor, Any]:
        """The network's prediction at a scale, and its features or logits if it has any."""
        height, width = size_of(base) if scale == 1 else (_scaled(side, scale) for side in size_of(base))
        if isinstance(height, int) and isinstance(width, int) and min(height, width) < 1:
            raise ValueError(f"image of {base.shape[2]} x {base.shape[3]} pixels has none left at scale {scale}")
        result = self.network(resized_to(base, (height, width)))
        if self.outputs is not None:
            result = self.outputs(result)
        if isinstance(result, Tensor) and not FUSE[self.fuse].by_logits:
            return result, None
        wanted = "features" if self.head is not None else "logits"
        if not isinstance(result, (tuple, list)) or len(result) < 2:
            raise TypeError(f"network must return a pair (prediction, {wanted}), got {type(result).__name__}")
        if FUSE[self.fuse].at_scale_one:
            checks.floating(wanted, result[1])
        return result[0], result[1]

    def _logits(self, features: Tensor, at: tuple[int, int] | None) -> Tensor:
        """Of one scale, from features that are first resized."""
        if at is not None:
            features = resized_to(features, at)
        head = self.head
        if head is None:
            return features
        if type(head) in (SpatialAttention, ScaleSpaceRendering) and plain.why_hooked(head) is None:
            return head.logits(features)  # type: ignore[operator, union-attr]
        if isinstance(head, SpatialAttention) and head.activation is not None:
            raise ValueError(
                f"head must have activation=None, so that it gives logits when it is called for its hooks, "
                f"got {head.activation!r}"
            )
        return head(features)

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


def _scaled(side: int, scale: float) -> int:
    """floor(scale side), in whole numbers where the scale is a fraction of small ones, which exporters know."""
    for denominator in range(1, 101):
        numerator = round(scale * denominator)
        if numerator / denominator == scale:
            return side * numerator // denominator
    return math.floor(scale * side)
