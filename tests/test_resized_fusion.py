"""resized_fusion: a table computed by hand, what it equals, what it saves, and the fusion of levels that uses it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import afa_kernels
from afa_kernels import backends
from afa_kernels.nn import AFALevelFusion
from afa_kernels.testing import LAYOUTS, both_passes, saved_storages

# A row of pixels and what it becomes of another width; both by hand, at the positions (i + 1/2) w / W - 1/2.
BY_HAND = [
    ([4.0], [4.0, 4.0, 4.0]),
    ([1.0, 5.0], [1.0, 2.0, 4.0, 5.0]),
    ([1.0, 5.0, 9.0, 1.0], [3.0, 5.0]),
    ([2.0, 8.0], [2.0, 5.0, 8.0]),
]


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("pixels, expected", BY_HAND)
def test_by_hand(pixels: list[float], expected: list[float], vertical: bool, backend: str) -> None:
    """Of one level alone, whose attentions are 1/2 and 1/4: an eighth of what it is resized to."""
    x = torch.tensor(pixels)[None, None, None, :]
    spatial = torch.zeros(1, 1, 1, len(expected))
    if vertical:
        x, spatial = x.mT, spatial.mT
    with afa_kernels.use_backend(backend):
        out = afa_kernels.resized_fusion([x], [spatial], [torch.full((1, 1, 1, 1), logit(0.25))])
    assert (8 * out).flatten().tolist() == pytest.approx(expected)


def test_gradients_by_hand(backend: str) -> None:
    """Two pixels that become four behind four that stay, with an upstream gradient of 1, 2, 3, 4."""
    a, b = (0.5, 0.75), (0.2, 0.5)
    g = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    coarse, fine = torch.tensor([1.0, 5.0]).double(), torch.tensor([3.0, -1.0, 2.0, 8.0]).double()
    up = torch.tensor([1.0, 2.0, 4.0, 5.0]).double()
    given = [
        [coarse.view(1, 1, 1, 2), fine.view(1, 1, 1, 4)],
        [torch.full((1, 1, 1, 4), logit(p)).double() for p in a],
        [torch.full((1, 1, 1, 1), logit(p)).double() for p in b],
    ]
    leaves = [t.clone().requires_grad_() for row in given for t in row]
    with afa_kernels.use_backend(backend):
        out = afa_kernels.resized_fusion(leaves[:2], leaves[2:4], leaves[4:])
    grads = [t.flatten() for t in torch.autograd.grad(out, leaves, g.view(1, 1, 1, 4))]
    w1, w2 = a[0] * b[0] * (1 - a[1]) * (1 - b[1]), a[1] * b[1]
    torch.testing.assert_close(out.flatten(), w1 * up + w2 * fine)
    # of the four pixels the coarse ones have 1, 3/4, 1/4 and 0, and 0, 1/4, 3/4 and 1
    torch.testing.assert_close(grads[0], w1 * torch.tensor([1 + 1.5 + 0.75, 0.5 + 2.25 + 4.0]).double())
    torch.testing.assert_close(grads[1], w2 * g)
    s1, s2 = w1 * up * g, w2 * fine * g
    for grad, (p1, p2), of in ((grads[2:4], a, lambda s: s), (grads[4:], b, lambda s: s.sum().view(1))):
        torch.testing.assert_close(grad[0], (1 - p1) * of(s1))
        torch.testing.assert_close(grad[1], (1 - p2) * of(s2) - p2 * of(s1))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [(8, 12), (5, 7), (3, 20)])
def test_equals_resizes_and_the_fusion(size: tuple[int, int], layout: str, backend: str) -> None:
    torch.manual_seed(0)
    sizes = (2, 3), (4, 6), (8, 12)
    features = [LAYOUTS[layout](torch.randn(2, 3, *s, dtype=torch.float64)).requires_grad_() for s in sizes]
    spatial = [torch.randn(2, 1, *size, dtype=torch.float64).requires_grad_() for _ in sizes]
    channel = [torch.randn(2, 3, 1, 1, dtype=torch.float64).requires_grad_() for _ in sizes]
    with afa_kernels.use_backend(backend):
        fused = afa_kernels.resized_fusion(features, spatial, channel)
        up = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in features]
        expected = afa_kernels.progressive_fusion(up, spatial, channel)
    torch.testing.assert_close(fused, expected)
    leaves, g = [*features, *spatial, *channel], torch.randn_like(fused)
    for mine, theirs in zip(torch.autograd.grad(fused, leaves, g), torch.autograd.grad(expected, leaves, g)):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_saves_its_arguments_alone(memory_format: torch.memory_format, kernel: str) -> None:
    features = [torch.randn(2, 16, h, 2 * h) for h in (6, 12, 24)]
    features = [x.contiguous(memory_format=memory_format).requires_grad_() for x in features]
    spatial = [torch.randn(2, 1, 24, 48, requires_grad=True) for _ in range(3)]
    channel = [torch.randn(2, 16, 1, 1, requires_grad=True) for _ in range(3)]
    with afa_kernels.use_backend(kernel):
        saved = saved_storages(lambda: afa_kernels.resized_fusion(features, spatial, channel))
    arguments = [t.untyped_storage() for t in (*features, *spatial, *channel)]
    assert saved == {storage.data_ptr(): storage.nbytes() for storage in arguments}


@pytest.mark.parametrize("training", [False, True])
def test_level_fusion_takes_levels_as_they_are(training: bool, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And gives what it gives where they are resized first."""
    torch.manual_seed(0)
    fuse = AFALevelFusion([12, 8, 4]).double().train(training)
    layers = [torch.randn(2, c, h, h + 1, dtype=torch.float64) for c, h in ((12, 3), (8, 6), (4, 12))]
    taken: list[list[Tensor]] = []
    original = afa_kernels.resized_fusion

    def watched(features: list[Tensor], *logits: list[Tensor]) -> Tensor:
        taken.append(list(features))
        return original(features, *logits)

    monkeypatch.setattr("afa_kernels.nn.attention.resized_fusion", watched)
    with afa_kernels.use_backend(kernel):
        (mine,), grads = both_passes(lambda given: [fuse(given)], layers)
    assert [[x.shape[2] for x in features] for features in taken] == [[3, 6, 12]]
    monkeypatch.setattr(backends, "has_kernel", lambda *_: False)
    with afa_kernels.use_backend(kernel):
        (theirs,), expected = both_passes(lambda given: [fuse(given)], layers)
    assert len(taken) == 1
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(grads, expected)
