"""Libraries that look into a model: what they count, name and hook is what is there."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import afa_kernels
from afa_kernels.nn import AttentiveFusion, MultiScale, ScaleSpaceRendering

SHALLOW, DEEP = torch.randn(2, 16, 24, 32), torch.randn(2, 16, 24, 32)


@pytest.fixture
def fusion() -> AttentiveFusion:
    torch.manual_seed(0)
    return AttentiveFusion(16).eval()


def parts(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if not list(m.children())]


def convolutions(module: AttentiveFusion) -> int:
    """Multiply-adds of the convolutions, by the sizes of their outputs when they are called as modules."""
    counted: list[int] = []

    def count(conv: nn.Module, inputs: Any, out: Tensor) -> None:
        counted.append(out.numel() * conv.weight[0].numel())  # type: ignore[index, operator, union-attr]

    hooks = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Conv2d)]
    module(SHALLOW, DEEP)
    for hook in hooks:
        hook.remove()
    return sum(counted)


def test_torch_flop_counter_counts_the_convolutions(fusion: AttentiveFusion) -> None:
    expected = convolutions(fusion)
    with FlopCounterMode(display=False) as counter:
        fusion(SHALLOW, DEEP)
    assert counter.get_total_flops() == 2 * expected


def test_fvcore_counts_the_convolutions(fusion: AttentiveFusion) -> None:
    fvcore = pytest.importorskip("fvcore.nn")
    with afa_kernels.use_backend("reference"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysis = fvcore.FlopCountAnalysis(fusion, (SHALLOW, DEEP))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        found = analysis.by_operator()["conv"]
    assert found == convolutions(fusion)


def test_torchinfo_shows_every_layer(fusion: AttentiveFusion) -> None:
    torchinfo = pytest.importorskip("torchinfo")
    found = torchinfo.summary(fusion, input_data=(SHALLOW, DEEP), verbose=0, depth=9)
    assert found.total_params == sum(p.numel() for p in fusion.parameters())
    shown = {id(layer.module) for layer in found.summary_list if layer.executed}
    assert {id(m) for m in parts(fusion)} <= shown


def test_captum_attributes_to_the_image_and_to_a_layer() -> None:
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1)
            self.fuse = AttentiveFusion(16)

        def forward(self, image: Tensor) -> Tensor:
            return self.fuse(self.one(image), self.two(image)).mean((2, 3))

    network, image = Network().eval(), torch.rand(2, 3, 16, 16)
    attributed, delta = captum.IntegratedGradients(network).attribute(
        image, target=0, n_steps=64, return_convergence_delta=True
    )
    assert attributed.shape == image.shape and delta.abs().max() < 0.01
    for layer in (network.one, network.fuse, network.fuse.sa.conv[0]):
        seen = captum.LayerGradCam(network, layer).attribute(image, target=0)
        assert seen.shape[0] == 2 and seen.isfinite().all() and seen.abs().sum() > 0


def test_the_profiler_names_every_operation(fusion: AttentiveFusion) -> None:
    shallow, deep = (t.clone().requires_grad_() for t in (SHALLOW, DEEP))
    head = ScaleSpaceRendering(3)
    model = MultiScale(nn.Conv2d(3, 3, 1), (0.5, 1.0), head=head, outputs=lambda x: (x, x))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        fusion.train()(shallow, deep).sum().backward()
        model.eval()(torch.randn(1, 3, 32, 32))
        model.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    names = {event.key for event in profiler.key_averages()}
    for op in ("attentive_fusion", "bn_relu_conv2d", "bn_relu_project", "global_avg_max_pool", "scale_space_render"):
        assert f"afa::{op}" in names and f"afa::{op}_backward" in names, sorted(n for n in names if "afa" in n)
