"""ScaleSpaceRenderer: scale-space rendering of one scale after the other, in the memory of one rendering."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from afa_kernels import checks, layout
from afa_kernels.ops import _registration as registration
from afa_kernels.ops._scale_space import BACKGROUND, PHI, RESIZE
from afa_kernels.ops.scale_space_accumulate import scale_space_accumulate
from afa_kernels.ops.scale_space_labels import scale_space_labels
from afa_kernels.reference.scale_space_weights import optical_depth


class ScaleSpaceRenderer:
    """Render scales as they come, coarse to fine: what `scale_space_render` computes, for inference.

    It holds one rendered map (N, C, H, W) and one transmittance, whatever the number of scales, in float32 whatever
    comes in (float64 if the first prediction is). Scale 1 is in front; each `add` composites one more behind it:

        rendered += T alpha up(prediction)        T *= 1 - alpha        alpha = 1 - exp(-phi(logits))

    T is at the resolution of the logits with resize="weights", where T alpha is resized, and at that of the output with
    "opacities", where alpha is.

    Args:
        size: (H, W) of the output.
        phi: the optical depth of a logit: "abs" (the paper), "relu", "softplus" or "exp".
        background: "none", or "last" to make the last scale opaque, which `add(..., last=True)` announces.
        resize: "weights" (the paper's code), or "opacities" (the order of hierarchical multi-scale attention).

    Source: Yang et al., "Dense Prediction with Attentive Feature Aggregation", WACV 2023, section 3.3.

    >>> import torch, afa_kernels
    >>> renderer = afa_kernels.ScaleSpaceRenderer(size=(64, 128))
    >>> for scale in (0.5, 1.0, 2.0):
    ...     prediction = torch.randn(1, 19, int(32 * scale), int(64 * scale))
    ...     renderer.add(prediction, logits=torch.randn(1, 1, 32, 64))
    ...     if renderer.opaque(eps=1e-3):
    ...         break
    >>> renderer.render().shape, renderer.labels().shape
    (torch.Size([1, 19, 64, 128]), torch.Size([1, 64, 128]))
    """

    def __init__(
        self, size: tuple[int, int], *, phi: str = "abs", background: str = "none", resize: str = "weights"
    ) -> None:
        checks.size("size", size)
        checks.one_of("phi", phi, PHI)
        checks.one_of("background", background, BACKGROUND)
        checks.one_of("resize", resize, RESIZE)
        self.size: tuple[int, int] = (size[0], size[1])
        self.phi: str = phi
        self.background: str = background
        self.resize: str = resize
        self.reset()

    def reset(self) -> None:
        """Forget every scale. Tensors given out before stay as they are."""
        self._rendered: Tensor | None = None
        self._transmittance: Tensor | None = None  # of the logits' size with resize="weights", else of the output's
        self._pixels = 0  # of the prediction before
        self._closed = False

    def add(self, prediction: Tensor, logits: Tensor, *, last: bool = False) -> None:
        """Composite one more scale behind those added before. One that raises leaves the rendering as it was.

        Args:
            prediction: (N, C, h, w), with no fewer pixels than the one before; N and C as in the first.
            logits: (N, 1, h', w'); with resize="weights" of one size in all scales.
            last: whether this is the last scale. With background="last" it lets nothing through.

        Raises:
            TypeError: an argument is no dense floating tensor.
            ValueError: a shape, a size, a device or the order does not match, or a gradient is asked for.
        """
        self._check(prediction, logits)
        first = self._rendered is None
        rendered = self._allocate(prediction) if self._rendered is None else self._rendered
        transmittance = self._transmittance
        with torch.no_grad():
            depth = optical_depth(logits.to(rendered.dtype), self.phi)
            if last and self.background == "last":
                depth = torch.full_like(depth, torch.inf)
            weight, behind = -torch.expm1(-depth), None
            if self.resize == "weights":
                through = torch.exp(-depth)
                if transmittance is not None:
                    weight, through = weight * transmittance, through * transmittance
                transmittance = through
            else:
                behind = transmittance
                if behind is None:
                    behind = transmittance = rendered.new_empty((rendered.shape[0], 1, *self.size))
            if (prediction.dtype == torch.float64) != (rendered.dtype == torch.float64):
                prediction = prediction.to(rendered.dtype)
            scale_space_accumulate(rendered, behind, prediction, weight, first)
        self._rendered, self._transmittance = rendered, transmittance
        self._pixels, self._closed = prediction.shape[2] * prediction.shape[3], last

    def _check(self, prediction: Tensor, logits: Tensor) -> None:
        checks.floating("prediction", prediction)
        checks.floating("logits", logits)
        registration.refuse_tangents("ScaleSpaceRenderer.add", (prediction, logits), "scale_space_render")
        checks.pixels("prediction", prediction)
        checks.pixels("logits", logits)
        checks.shape("logits", logits, (prediction.shape[0], 1, *logits.shape[2:]), "prediction", prediction)
        checks.same_device("logits", logits, "prediction", prediction)
        if torch.is_grad_enabled() and (prediction.requires_grad or logits.requires_grad):
            raise ValueError(
                "prediction and logits must not require a gradient, which ScaleSpaceRenderer does not record: call it "
                "inside torch.no_grad(), or scale_space_render for training"
            )
        if self._closed:
            raise ValueError("add must not be called after the last scale, before reset()")
        if self._rendered is None or self._transmittance is None:
            return
        expected = (*self._rendered.shape[:2], *prediction.shape[2:])
        checks.shape("prediction", prediction, expected, "the first, rendered to", self._rendered)
        checks.same_device("prediction", prediction, "the first", self._rendered)
        if prediction.shape[2] * prediction.shape[3] < self._pixels:
            raise ValueError(
                f"prediction must come coarse to fine, with at least the {self._pixels} pixels of the one before, "
                f"got {prediction.shape[2]} x {prediction.shape[3]}"
            )
        if self.resize == "weights":
            first = self._transmittance
            checks.shape("logits", logits, first.shape, 'the first, with resize="weights",', first)

    def _allocate(self, prediction: Tensor) -> Tensor:
        return torch.empty(
            (*prediction.shape[:2], *self.size),
            dtype=torch.promote_types(prediction.dtype, torch.float32),
            device=prediction.device,
            memory_format=layout.memory_format(prediction),
        )

    def render(self) -> Tensor:
        """The rendering of the scales so far, (N, C, H, W). `add` goes on in this very tensor."""
        if self._rendered is None:
            raise RuntimeError("ScaleSpaceRenderer has nothing to render: add a scale first")
        if self.background == "last" and not self._closed:
            raise RuntimeError(
                'ScaleSpaceRenderer with background="last" must be told the last scale: add(..., last=True)'
            )
        return self._rendered

    def labels(self, *, value: str | None = None, dtype: torch.dtype = torch.int64) -> Tensor | tuple[Tensor, Tensor]:
        """The argmax over the channels, (N, H, W), and its value if asked for; see `scale_space_labels`."""
        rendered = self.render()
        opaque = rendered.new_full((rendered.shape[0], 1, 1, 1), torch.inf)
        return scale_space_labels([rendered], opaque, value=value, dtype=dtype)

    @property
    def transmittance(self) -> Tensor:
        """What the scales so far let through, (N, 1, H, W): 1 minus the sum of the resized weights."""
        if self._transmittance is None:
            raise RuntimeError("ScaleSpaceRenderer has no transmittance: add a scale first")
        if self.resize == "opacities":
            return self._transmittance.clone()  # in which `add` goes on
        return F.interpolate(self._transmittance, self.size, mode="bilinear", align_corners=False)

    def opaque(self, eps: float = 1e-3) -> bool:
        """Whether no pixel lets more than `eps` through, so that finer scales change no rendering by more than
        that share of their own predictions.

        On a GPU this waits for the scales added so far. Of tensors without values (meta, or while exporting) it is not
        known, and False.
        """
        checks.number("eps", eps, 0)
        seen = self._transmittance
        if seen is None or seen.device.type == "meta" or type(seen).__module__.startswith("torch._subclasses."):
            return False
        return bool((seen <= eps).all())
