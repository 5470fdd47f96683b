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
    """How predictions become one: all at once with gradients, or one after the other in the memory of one.

    Each prediction has a weight: logits or attention, or, where `weighed` is False, none.
    """

    at_once: Callable[[list[Tensor], list[Tensor], Sequence[float], tuple[int, int]], Tensor]
    streaming: Callable[[tuple[int, int], int], Any]  # by the size and the number of scales; has add and render
    weighed: bool = True
    at_scale_one: bool = False  # whether the weights of all scales are made at the resolution of that one's features
    descending: bool = False  # the order in which the scales run in training, behind scale 1.0


def _mean(predictions: list[Tensor], _: list[Tensor], scales: Sequence[float], size: tuple[int, int]) -> Tensor:
    total: Tensor | None = None
    for prediction in predictions:
        dtype = torch.promote_types(prediction.dtype, torch.float32)
        resized = resized_to(prediction, size).to(dtype)
        if len(scales) == 1:
            return resized
        total = resized / len(scales) if total is None else total.add_(resized, alpha=1 / len(scales))
    assert total is not None
    return total


class _Streaming:
    """Of predictions and weights, the sum in `total`, and the transmittance in front of the next where there is one."""

    def __init__(self, size: tuple[int, int], count: int) -> None:
        self.size, self.count = size, count
        self.total: Tensor | None = None
        self.transmittance: Tensor | None = None

    def _add(self, prediction: Tensor, weight: Tensor | float, *, behind: bool) -> None:
        first, dtype = self.total is None, torch.promote_types(prediction.dtype, torch.float32)
        if self.total is None:
            self.total = prediction.new_empty((*prediction.shape[:2], *self.size), dtype=dtype)
            self.transmittance = self.total.new_empty((prediction.shape[0], 1, *self.size)) if behind else None
        if not isinstance(weight, Tensor):
            weight = self.total.new_full((prediction.shape[0], 1, 1, 1), weight)
        scale_space_accumulate(self.total, self.transmittance, prediction, weight.to(self.total.dtype), first)

    def render(self) -> Tensor:
        assert self.total is not None
        return self.total


class _StreamingMean(_Streaming):
    def add(self, prediction: Tensor, weight: None, *, last: bool) -> None:
        if self.count == 1:
            self.total = _mean([prediction], [], (1.0,), self.size)
        else:
            self._add(prediction, 1 / self.count, behind=False)


class _StreamingHierarchy(_Streaming):
    """`hierarchical_fusion` by attention as it is; the last scale is opaque."""

    def add(self, prediction: Tensor, attention: Tensor, *, last: bool) -> None:
        self._add(prediction, 1.0 if last else attention, behind=True)


def _hierarchical(
    predictions: list[Tensor], attention: list[Tensor], scales: Sequence[float], size: tuple[int, int]
) -> Tensor:
    return hierarchical_fusion(predictions, attention, scales, size=size)


FUSE = {
    "ssr": _Fusing(
        lambda predictions, logits, _, size: scale_space_render(predictions, logits, size),
        lambda size, _: ScaleSpaceRenderer(size),
        at_scale_one=True,
    ),
    "hma": _Fusing(
        lambda predictions, logits, *rest: _hierarchical(predictions, [y.sigmoid() for y in logits], *rest),
        lambda size, _: ScaleSpaceRenderer(size, phi="softplus", background="last", resize="opacities"),
    ),
    "hma_at_one": _Fusing(_hierarchical, _StreamingHierarchy, at_scale_one=True, descending=True),
    "mean": _Fusing(_mean, _StreamingMean, weighed=False),
}


class MultiScale(plain.Module):
    """Run a network on the image at several scales and fuse what it predicts, at the image's size.

    In training all scales are kept and fused with gradients. In evaluation mode, without, they run coarse to fine and
    are fused one after the other in the memory of one (`ScaleSpaceRenderer`); but of an image that requires a gradient
    all are kept there too. An exported program, of torch.export or ONNX, fuses them all at once, and is for every size
    of image; one of torch.jit.trace is for the size it was given.

    The image is first resized up to a multiple of `multiple`; at scale s the network gets it resized to
    (floor(s H), floor(s W)). A network compiled by torch.compile may be given; it sees one size for each scale.

    Args:
        network: maps an image (N, 3, h, w) to a prediction (N, C, h', w') of any resolution, and with "ssr" and "hma"
            to a pair of this and features for `head`; or, without a head, logits (N, 1, h'', w''). None in a subclass
            with a `predict` of its own.
        scales: in evaluation mode, ascending.
        fuse: "ssr", by the logits all at the resolution of scale 1.0's; "hma", by attention sigmoid(logits)
            (`hierarchical_fusion`, variant "afa"); "hma_at_one", the same by attention that the network or the head
            returns itself, first resized to that of scale 1.0, as in the official network; or "mean".
            With "ssr" and "hma_at_one" scale 1.0 runs first, whether `scales` contains it or not.
        head: maps features to logits, such as `ScaleSpaceRendering(channels)`, or `SpatialAttention(channels)`.
        training_scales: in training; default, `scales`.
        flip: whether to add the flipped image in evaluation mode, and return the mean of both.
        multiple: of which the network needs its image's height and width to be, or a pair of them. The official code
            has 64 in training and 128 in evaluation.
        training_multiple: in training; default, `multiple`.
        eps: in evaluation mode with "ssr", leave out the scales behind one that lets at most `eps` through anywhere.
            An exported program runs them all.
        progress: whether to show a bar of the scales (needs tqdm).
        outputs: makes what is said of `network` above of what it returns, such as
            `lambda result: (result["out"], result["features"])`.

    In training the loss of single scales, or one without the rendering, needs what `scales_of(image)` returns:

        predictions, logits = model.scales_of(image)
        loss = scale_space_cross_entropy(predictions, logits, target)

    A subclass may have `predict`, `attend` and `size_of_features` of its own: the networks of `afa_kernels.models` are
    such subclasses, whose state dicts are therefore the official ones.

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
        network: nn.Module | None,
        scales: Sequence[float],
        fuse: str = "ssr",
        head: nn.Module | None = None,
        training_scales: Sequence[float] | None = None,
        flip: bool = False,
        multiple: int | tuple[int, int] = 1,
        eps: float | None = None,
        progress: bool = False,
        outputs: Callable[[Any], Any] | None = None,
        training_multiple: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        checks.one_of("fuse", fuse, tuple(FUSE))
        training_scales = scales if training_scales is None else training_scales
        checks.ascending("scales", scales)
        checks.ascending("training_scales", training_scales)
        training_multiple = multiple if training_multiple is None else training_multiple
        checks.pair("multiple", multiple, 1)
        checks.pair("training_multiple", training_multiple, 1)
        if eps is not None:
            checks.number("eps", eps, 0)
        if outputs is not None and not callable(outputs):
            raise TypeError(f"outputs must be a function of what the network returns, got {type(outputs).__name__}")
        self.network: nn.Module | None = network
        self.head: nn.Module | None = head
        self.fuse: str = fuse
        self.scales: tuple[float, ...] = tuple(map(float, scales))
        self.training_scales: tuple[float, ...] = tuple(map(float, training_scales))
        self.flip: bool = flip
        self.multiple: int | tuple[int, int] = multiple
        self.eps: float | None = eps
        self.progress: bool = progress
        self.outputs: Callable[[Any], Any] | None = outputs
        self.training_multiple: int | tuple[int, int] = training_multiple

    def forward(self, image: Tensor) -> Tensor:
        """The fused prediction, (N, C, H, W)."""
        if isinstance(image, fx.Proxy):
            return plain.as_leaf(self, image)
        if self.training:
            return self._at_once(image)
        if not self._streams(image):
            return self._fused(image, self._at_once)
        with torch.no_grad(), checks.without_tracer_warnings():
            return self._fused(image, self._streamed)

    def _fused(self, image: Tensor, fuse: Callable[[Tensor], Tensor]) -> Tensor:
        fused = fuse(image)
        fused = (fused + fuse(image.flip(-1)).flip(-1)) * 0.5 if self.flip else fused
        return fused.to(torch.promote_types(fused.dtype, torch.float32))

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
        results, weights = self.run_scales(image)
        return [result[0] for result in results], weights

    def run_scales(
        self, image: Tensor, predict: Callable[[Tensor], Any] | None = None
    ) -> tuple[list[tuple[Any, ...]], list[Tensor]]:
        """What `predict`, or another function in its place, returns at every scale, ascending; and the logits."""
        fusing, scales, base = FUSE[self.fuse], self.active_scales, self._base(image)
        order = sorted(scales, reverse=fusing.descending)
        if fusing.at_scale_one:
            order.sort(key=lambda scale: scale != 1)
            order = order if order[0] == 1 else [1.0, *order]
        found = {scale: self._run(base, scale, predict) for scale in order}
        results = [found[scale] for scale in scales]
        if not fusing.weighed:
            return results, []
        at = size_of(found[1.0][1]) if fusing.at_scale_one else None
        return results, [self._weight(features, at) for _, features, *_ in results]

    @property
    def active_scales(self) -> tuple[float, ...]:
        """Those of training, or of evaluation."""
        return self.training_scales if self.training else self.scales

    def predict(self, image: Tensor) -> Any:
        """The network's prediction for an image at one scale, and its features or logits if it has any."""
        assert self.network is not None
        result = self.network(image)
        return result if self.outputs is None else self.outputs(result)

    def attend(self, features: Tensor) -> Tensor:
        """Logits of features; by "hma_at_one", attention."""
        head = self.head
        return features if head is None else logits_by(head, features)

    def size_of_features(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Those of what `predict` returns for an image of that size; None if only running it tells."""
        return None

    def fuse_scales(self, predictions: list[Tensor], weights: list[Tensor], size: tuple[int, int]) -> Tensor:
        """What `scales_of` returned, as one prediction."""
        return FUSE[self.fuse].at_once(predictions, weights, self.active_scales, size)

    def _streams(self, image: Tensor) -> bool:
        # An exported program is a graph of operations alone, which no_grad and what works in place are not.
        return not (torch.compiler.is_exporting() or (image.requires_grad and torch.is_grad_enabled()))

    def _at_once(self, image: Tensor) -> Tensor:
        return self.fuse_scales(*self.scales_of(image), size_of(image))

    def _streamed(self, image: Tensor) -> Tensor:
        fusing, scales, base = FUSE[self.fuse], self.scales, self._base(image)
        stream = fusing.streaming(size_of(image), len(scales))
        at = known = None
        if fusing.at_scale_one:  # if the size is not known, scale 1.0 runs first, and its result waits for its turn
            at = self.size_of_features(size_of(base))
            if at is None:
                known = self._run(base, 1.0)
                at, known = size_of(known[1]), known if 1.0 in scales else None
        for k, scale in enumerate(self._shown(scales)):
            if known is not None and scale == 1:
                (prediction, *rest), known = known, None
            else:
                prediction, *rest = self._run(base, scale)
            weight = self._weight(rest[0], at) if fusing.weighed else None
            del rest
            stream.add(prediction, weight, last=k == len(scales) - 1)
            del prediction, weight  # before the next scale runs
            if self.eps is not None and self.fuse == "ssr" and stream.opaque(self.eps):
                break
        return stream.render()

    def _base(self, image: Tensor) -> Tensor:
        checks.floating("image", image)
        checks.pixels("image", image)
        multiples = checks.pair("multiple", self.training_multiple if self.training else self.multiple, 1)
        height, width = (m * ((side + m - 1) // m) for side, m in zip(size_of(image), multiples))
        return resized_to(image, (height, width))

    def _run(self, base: Tensor, scale: float, predict: Callable[[Tensor], Any] | None = None) -> tuple[Any, ...]:
        """What `predict` returns at a scale: the prediction, features or logits if there are any, and what else."""
        height, width = size_of(base) if scale == 1 else (_scaled(side, scale) for side in size_of(base))
        if isinstance(height, int) and isinstance(width, int) and min(height, width) < 1:
            raise ValueError(f"image of {base.shape[2]} x {base.shape[3]} pixels has none left at scale {scale}")
        result = (self.predict if predict is None else predict)(resized_to(base, (height, width)))
        if not FUSE[self.fuse].weighed:
            return (result,) if isinstance(result, Tensor) else tuple(result)
        wanted = "features" if self.head is not None else "logits"
        if not isinstance(result, (tuple, list)) or len(result) < 2:
            raise TypeError(f"network must return a pair (prediction, {wanted}), got {type(result).__name__}")
        if FUSE[self.fuse].at_scale_one:
            checks.floating(wanted, result[1])
        return tuple(result)

    def _weight(self, features: Tensor, at: tuple[int, int] | None) -> Tensor:
        """Of one scale, from features that are first resized."""
        return self.attend(features if at is None else resized_to(features, at))

    def _shown(self, scales: Sequence[float]) -> Iterator[float]:
        if not self.progress:
            return iter(scales)
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise ImportError("progress=True needs tqdm: pip install tqdm") from error
        return iter(tqdm(scales, unit="scale"))


def logits_by(head: nn.Module, features: Tensor) -> Tensor:
    """What a head's activation would get: its logits, where nobody has hooked it; else it is called."""
    hooked = plain.why_hooked(head) or plain.why_observed()
    if type(head) in (SpatialAttention, ScaleSpaceRendering) and hooked is None:
        return head.logits(features)  # type: ignore[operator]
    if isinstance(head, SpatialAttention) and head.activation is not None:
        raise ValueError(
            f"head must have activation=None, so that it gives logits when it is called for its hooks, "
            f"got {head.activation!r}"
        )
    return head(features)


def _index_of_one(scales: Sequence[float], name: str = "scales") -> int:
    for i, scale in enumerate(scales):
        if scale == 1:
            return i
    raise ValueError(f"{name} must contain 1.0, at whose resolution the logits are made, got {tuple(scales)}")


def _scaled(side: int, scale: float) -> int:
    """floor(scale side), in whole numbers, which exporters know, where the scale is so many 64ths."""
    if (64 * scale).is_integer():
        return side * int(64 * scale) // 64
    return math.floor(scale * side)
