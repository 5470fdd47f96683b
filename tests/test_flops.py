"""torch.utils.flop_counter counts of a fused module what it counts of its children, whoever is imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import afa_kernels.nn

pytestmark = pytest.mark.once


class Plain(nn.BatchNorm2d):
    """A batch norm that no operation takes for its own."""


def flops(module: nn.Module, *inputs: torch.Tensor) -> tuple[int, int]:
    """Of the forward pass, and of both."""
    with FlopCounterMode(display=False) as forward:
        out = module(*inputs)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    return forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


MODULES = {
    "SpatialAttention": lambda norm: afa_kernels.nn.SpatialAttention(6, norm=norm),
    "SpatialAttention of several channels": lambda norm: afa_kernels.nn.SpatialAttention(6, 3, 4, norm=norm),
    "ChannelAttention": lambda norm: afa_kernels.nn.ChannelAttention(6, 32, norm=norm),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("of_input", [True, False])
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_as_the_children(make, of_input: bool, training: bool) -> None:
    ours, theirs = (make(norm).train(training) for norm in (nn.BatchNorm2d, Plain))
    x = torch.randn(2, 6, 5, 7)
    assert ours.why_not_fused() is None and theirs.why_not_fused() is not None
    counted, expected = (flops(module, x.clone().requires_grad_(of_input)) for module in (ours, theirs))
    assert counted == expected and expected[0] > 0


@pytest.mark.parametrize(
    "names", [("afa_kernels", "torch.utils.flop_counter"), ("torch.utils.flop_counter", "afa_kernels")]
)
def test_whoever_is_imported_first(names: tuple[str, str]) -> None:
    script = (
        f"import {names[0]}, {names[1]}, sys, torch\n"
        "assert torch.ops.afa.bn_relu_conv2d in torch.utils.flop_counter.flop_registry\n"
        "assert not any(type(f).__module__ == 'afa_kernels.flops' for f in sys.meta_path)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_nothing_is_imported_for_it() -> None:
    script = "import afa_kernels, sys; assert 'torch.utils.flop_counter' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_who_looks_for_the_counter_need_not_load_it() -> None:
    program = """
import importlib.util, torch, afa_kernels
importlib.util.find_spec("torch.utils.flop_counter")
from torch.utils.flop_counter import FlopCounterMode
x, w = torch.ones(1, 3, 4, 5), torch.ones(2, 3, 3, 3)
with FlopCounterMode(display=False) as mode:
    afa_kernels.bn_relu_conv2d(x, torch.ones(3), torch.zeros(3), None, None, w, True, padding=1)
print(mode.get_total_flops())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2 * 2 * 3 * 9 * 20
