"""What is measured: each operation at the shapes of real networks, who competes, and how many bytes must move."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import afa_kernels
from afa_kernels.testing import Case, cotangents, listed, tensors

Shape = tuple[int, ...]


def attentive_fusion(shallow: Tensor, deep: Tensor, spatial_logits: Tensor, channel_logits: Tensor) -> Tensor:
    """What a user writes without afa_kernels."""
    a, b = torch.sigmoid(spatial_logits), torch.sigmoid(channel_logits)
    return a * (1 - b) * shallow + (1 - a) * b * deep


def progressive_fusion(
    features: Sequence[Tensor], spatial_logits: Sequence[Tensor], channel_logits: Sequence[Tensor]
) -> Tensor:
    """What a user writes without afa_kernels."""
    a = [torch.sigmoid(s) for s in spatial_logits]
    b = [torch.sigmoid(q) for q in channel_logits]
    out = a[0] * b[0] * features[0]
    for i in range(1, len(features)):
        out = a[i] * b[i] * features[i] + (1 - a[i]) * (1 - b[i]) * out
    return out


def global_avg_max_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """What a user writes without afa_kernels."""
    return F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)


def bn_relu_project(hidden: Tensor, weight: Tensor, bias: Tensor, project_weight: Tensor, **norm: Any) -> Tensor:
    """What a user writes without afa_kernels."""
    normalised = F.batch_norm(hidden, weight=weight, bias=bias, **norm)
    return F.conv2d(F.relu(normalised), project_weight)


def channel_attention(
    x: Tensor, conv1_weight: Tensor, weight: Tensor, bias: Tensor, conv2_weight: Tensor, **norm: Any
) -> Tensor:
    """What a user writes without afa_kernels."""
    pooled = F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)
    normalised = (F.batch_norm(F.conv2d(v, conv1_weight), weight=weight, bias=bias, **norm) for v in pooled)
    first, second = (F.conv2d(F.relu(y), conv2_weight) for y in normalised)
    return first + second


def scale_space_weights(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What a user writes without afa_kernels."""
    depth = logits.abs()
    total = depth.cumsum(1)
    return (1 - torch.exp(-depth)) * torch.exp(depth - total), torch.exp(-total[:, -1:])


def scale_space_render(predictions: Sequence[Tensor], logits: Tensor, size: tuple[int, int]) -> Tensor:
    """What a user writes without afa_kernels: the official composition, of weights and predictions resized first."""
    weights, _ = scale_space_weights(logits)
    rendered = resize(weights[:, :1], size) * resize(predictions[0], size)
    for k in range(1, len(predictions)):
        rendered += resize(weights[:, k : k + 1], size) * resize(predictions[k], size)
    return rendered


def scale_space_labels(predictions: Sequence[Tensor], logits: Tensor, size: tuple[int, int], dtype: Any) -> Tensor:
    """What a user writes without afa_kernels, whose labels are 64 bits wide."""
    return scale_space_render(predictions, logits, size).argmax(1)


def scale_space_cross_entropy(predictions: Sequence[Tensor], logits: Tensor, target: Tensor) -> Tensor:
    """What a user writes without afa_kernels."""
    return F.cross_entropy(scale_space_render(predictions, logits, (target.shape[1], target.shape[2])), target)


def hierarchical_fusion(
    predictions: Sequence[Tensor], attentions: Sequence[Tensor], scales: Sequence[float], size: tuple[int, int]
) -> Tensor:
    """What a user writes without afa_kernels, in dla-afa's order."""
    fused = resize(predictions[-1], size)
    for k in reversed(range(len(attentions))):
        attention = resize(attentions[k], size)
        fused = attention * resize(predictions[k], size) + (1 - attention) * fused
    return fused


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


EAGER: dict[str, Callable[..., Any]] = {
    "attentive_fusion": attentive_fusion,
    "progressive_fusion": progressive_fusion,
    "global_avg_max_pool": global_avg_max_pool,
    "bn_relu_project": bn_relu_project,
    "channel_attention": channel_attention,
    "scale_space_weights": scale_space_weights,
    "scale_space_render": scale_space_render,
    "scale_space_labels": scale_space_labels,
    "scale_space_cross_entropy": scale_space_cross_entropy,
    "hierarchical_fusion": hierarchical_fusion,
}
OPS = tuple(EAGER)


@dataclass(frozen=True)
class Workload:
    """One operation at one shape in one layout: a forward pass that records no gradient, or a training step."""

    case: Case
    layout: str
    training: bool

    @property
    def pass_name(self) -> str:
        return "training step" if self.training else "forward"

    def __str__(self) -> str:
        return f"{self.case.op} {self.pass_name} {self.layout} {self.case.covers}"

    def inputs(self, device: str = "cpu") -> tuple[Any, ...]:
        """The arguments, float32 and dense; in a training step every tensor among them wants a gradient."""
        arguments = self.case.inputs(torch.float32, device)
        for t in tensors(arguments):
            t.requires_grad_(self.training)
        return arguments

    def contestants(self) -> dict[str, Callable[..., Any]]:
        """The operation in eager PyTorch, the same compiled for this shape alone, and from afa_kernels."""
        torch.compiler.reset()
        eager, ours = EAGER[self.case.op], getattr(afa_kernels, self.case.op)
        return {
            "eager": functools.partial(self.case.call, eager),
            "compiled": functools.partial(self.case.call, torch.compile(eager, dynamic=False)),
            "afa_kernels": functools.partial(self.case.call, ours),
        }

    def step(self, function: Callable[..., Any], arguments: Sequence[Any], upstream: Sequence[Tensor]) -> list[Tensor]:
        """One pass: the outputs, in a training step followed by the gradient of every input tensor."""
        if not self.training:
            with torch.no_grad():
                return listed(function(*arguments))
        outputs = listed(function(*arguments))
        return [*outputs, *torch.autograd.grad(outputs, tensors(arguments), upstream)]

    def upstream(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """A fixed dense gradient for each output, in its layout."""
        return [torch.empty_like(o).copy_(g) for o, g in zip(outputs, cotangents(outputs), strict=True)]

    def least_bytes(self, arguments: Sequence[Any], outputs: Sequence[Tensor]) -> int:
        """Inputs read once and outputs written once; in a training step by the backward pass too.

        The inputs of the backward pass are those of the forward pass and the gradients of its outputs; pooling's, and
        channel attention's, only the latter. The statistics of bn_relu_project, and the sums of its backward, need a
        reading of their own.
        """
        grads, written = _bytes(tensors(arguments)), _bytes(outputs)
        read = grads + _bytes([o for o in self.case.options.values() if isinstance(o, Tensor)])
        if self.case.op == "bn_relu_project":
            return 2 * read + written + (2 * (written + read) + grads)
        read_again = 0 if self.case.op in ("global_avg_max_pool", "channel_attention") else read
        return read + written + (written + read_again + grads if self.training else 0)

    def moved_bytes(self, arguments: Sequence[Any], outputs: Sequence[Tensor]) -> int:
        """What the C++ kernels move: the passes over each tensor in csrc/cpu, rows still in the cache not counted.

        scale_space_weights and the pooling make one pass over everything. The fusions do too, and first write two
        values for every logit, which they read back for each channel, here counted once. scale_space_render writes the
        weights at attention resolution and reads them back. Its backward does so again and reads the logits twice, and
        writes and reads back the weights' gradients at output resolution. scale_space_cross_entropy does the same, and
        has maps of one value a pixel: the losses and log(sum exp), written and read; and in the backward pass the
        upstream gradient, the factor and the class of each pixel. hierarchical_fusion copies the attentions, and has
        their gradients at output resolution.
        """
        moved = self.least_bytes(arguments, outputs)
        first_logits = {"attentive_fusion": 2, "progressive_fusion": 1}.get(self.case.op)
        if first_logits is not None:
            moved += (2 if self.training else 1) * 4 * _bytes(tensors(arguments[first_logits:]))
        if self.case.op in ("scale_space_render", "scale_space_labels", "scale_space_cross_entropy"):
            predictions, logits = arguments
            target = self.case.options.get("target")
            moved += (5 if self.training else 2) * _bytes([logits])
            of_a_map = 4 * (outputs[0][:, :1] if target is None else target).numel()
            if self.training:
                moved += 2 * len(predictions) * of_a_map
            if target is not None:
                moved += (10 if self.training else 3) * of_a_map
        if self.case.op == "hierarchical_fusion":
            predictions, attentions = arguments
            moved += (4 if self.training else 2) * _bytes(attentions)
            moved += 2 * len(predictions) * _bytes([outputs[0][:, :1]]) if self.training else 0
        return moved


def _bytes(given: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in given)


# The four levels of DLA-34 on an image of 1024 x 2048 pixels, and two training crops.
FUSIONS: tuple[Shape, ...] = (
    (1, 32, 512, 1024),
    (1, 64, 256, 512),
    (1, 128, 128, 256),
    (1, 256, 64, 128),
    (4, 32, 208, 208),
    (8, 64, 52, 52),
)
CLASSES = 19
SCALES = (0.5, 1, 1.5, 1.75, 2)
LAYOUTS = {"NCHW": "contiguous", "channels_last": "channels_last"}  # by the names of `afa_kernels.testing.LAYOUTS`


def workloads(quick: bool = False) -> list[Workload]:
    """Every workload; with `quick` fewer of them, their heights and widths a quarter."""
    shrink = 4 if quick else 1
    found = []
    for layout in LAYOUTS:
        for training in (False, True):
            fusions = FUSIONS[:1] if quick else FUSIONS
            found += [Workload(_fusion(_shrunk(shape, shrink), layout), layout, training) for shape in fusions]
            progressive = _progressive(3, _shrunk((1, 32, 512, 1024), shrink), layout)
            found.append(Workload(progressive, layout, training))
            found += [Workload(_channel(_shrunk(shape, shrink), layout), layout, training) for shape in fusions[:4]]
            if training:
                found += [Workload(_project(_shrunk(shape, shrink), layout), layout, True) for shape in fusions[:4]]
            found += [Workload(_pool(_shrunk(shape, shrink), layout), layout, training) for shape in fusions[:4]]
    for training, shape in ((False, (1, 5, 512, 1024)), (True, (1, 2, 256, 512))):
        found.append(Workload(_weights(_shrunk(shape, shrink)), "NCHW", training))
    inference = _render((1024, 2048), SCALES, (512, 1024), shrink)
    training_step = _render((512, 1024), SCALES[:2], (256, 512), shrink)
    labels = dataclasses.replace(
        inference, op="scale_space_labels", options={**inference.options, "dtype": torch.int64}
    )
    target = torch.arange(512 * 1024 // shrink**2).remainder(CLASSES).view(1, 512 // shrink, 1024 // shrink)
    loss = dataclasses.replace(training_step, op="scale_space_cross_entropy", options={"target": target})
    blended = [_hierarchy(case, scales) for case, scales in ((inference, SCALES), (training_step, SCALES[:2]))]
    found += [Workload(case, "NCHW", False) for case in (inference, labels, blended[0])]
    return found + [Workload(case, "NCHW", True) for case in (training_step, loss, blended[1])]


def _fusion(shape: Shape, layout: str) -> Case:
    n, c, h, w = shape
    shapes = (shape, shape, (n, 1, h, w), (n, c, 1, 1))
    return Case("attentive_fusion", _name(shape), shapes, layouts=(LAYOUTS[layout],))


def _progressive(inputs: int, shape: Shape, layout: str) -> Case:
    n, c, h, w = shape
    shapes = tuple([size] * inputs for size in (shape, (n, 1, h, w), (n, c, 1, 1)))
    return Case("progressive_fusion", f"{_name(shape)}, {inputs} inputs", shapes, layouts=(LAYOUTS[layout],))


def _pool(shape: Shape, layout: str) -> Case:
    return Case("global_avg_max_pool", _name(shape), (shape,), layouts=(LAYOUTS[layout],))


def _project(shape: Shape, layout: str) -> Case:
    channels = shape[1]
    shapes = (shape, (channels,), (channels,), (1, channels, 1, 1))
    options = {"running_mean": None, "running_var": None, "training": True}
    names = ("hidden", "weight", "bias", "project_weight")
    layouts = (LAYOUTS[layout], *3 * ("contiguous",))
    return Case("bn_relu_project", _name(shape), shapes, options, layouts, names=names)


def _channel(shape: Shape, layout: str) -> Case:
    channels = shape[1]
    hidden = max(1, channels // 16)
    shapes = (shape, (hidden, channels, 1, 1), (hidden,), (hidden,), (channels, hidden, 1, 1))
    options = {"running_mean": torch.zeros(hidden), "running_var": torch.ones(hidden), "training": False}
    names = ("x", "conv1_weight", "weight", "bias", "conv2_weight")
    layouts = (LAYOUTS[layout], *4 * ("contiguous",))
    return Case("channel_attention", _name(shape), shapes, options, layouts, names=names)


def _weights(shape: Shape) -> Case:
    return Case("scale_space_weights", _name(shape), (shape,))


def _render(image: tuple[int, int], scales: Sequence[float], attention: tuple[int, int], shrink: int) -> Case:
    """A network predicts at half the size of its input: at scale s the prediction has s/2 times the image's size."""
    height, width = image[0] // shrink, image[1] // shrink
    predictions: list[Shape] = [(1, CLASSES, int(s / 2 * height), int(s / 2 * width)) for s in scales]
    logits = (1, len(scales), attention[0] // shrink, attention[1] // shrink)
    covers = f"{_name((1, CLASSES, height, width))}, {len(scales)} scales"
    return Case("scale_space_render", covers, (predictions, logits), options={"size": (height, width)})


def _hierarchy(render: Case, scales: Sequence[float]) -> Case:
    """The same predictions, with an attention at the resolution of each but the finest."""
    predictions: list[Shape] = render.shapes[0]  # type: ignore[assignment]
    attentions: list[Shape] = [(n, 1, h, w) for n, _, h, w in predictions[:-1]]
    options = {"scales": scales, **render.options}
    return dataclasses.replace(render, op="hierarchical_fusion", shapes=(predictions, attentions), options=options)


def _shrunk(shape: Shape, shrink: int) -> Shape:
    n, c, h, w = shape
    return n, c, h // shrink, w // shrink


def _name(shape: Shape) -> str:
    return "x".join(map(str, shape))
