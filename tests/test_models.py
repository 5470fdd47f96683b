"""The aggregation networks: values recorded from the official code, and everything a user does to a module."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from support import recorded
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import afa_kernels
import afa_kernels.nn.aggregation
from afa_kernels.models import AFADLAUp, AFAIDAUp, AFALevelFusion
from afa_kernels.testing import DEVICE


def recorded_model(name: str, note: str) -> nn.Module:
    norm = "abn" if "abn" in name else "bn"
    if name.startswith("final"):
        return AFALevelFusion([32, 24, 16], norm)
    if name.startswith("afadlaup"):
        return AFADLAUp([16, 24, 32], [1, 2, 4], norm=norm)
    channels, factors = (json.loads(part) for part in re.findall(r"=(\[.*?\])", note))
    return AFAIDAUp(16, channels, factors, norm)


@pytest.mark.device
@pytest.mark.once
@pytest.mark.parametrize("name", recorded.names("afaidaup", "afadlaup", "final"))
def test_recorded(name: str, backend: str) -> None:
    """Outputs, gradients and buffers of the official code, from its own state dict."""
    record, meta = recorded.load(name), recorded.meta(name)
    dtype, tolerance = (torch.float64, 1e-6) if meta["dtype"] == "f8" else (torch.float32, 1e-4)

    def group(prefix: str) -> dict[str, Tensor]:
        return recorded.group(record, prefix, dtype)

    model = recorded_model(name, meta["note"]).to(DEVICE, dtype)
    model.load_state_dict(group("w"), strict=True)
    model.train("train" in meta["note"].split())
    inputs = {key: t.requires_grad_() for key, t in group("in").items()}
    with afa_kernels.use_backend(backend):
        results = model(list(inputs.values()))
        outputs = {"afai": lambda: results[1], "afad": lambda: results, "fina": lambda: [results]}[name[:4]]()
        (total,) = [sum((o * c).sum() for o, c in zip(outputs, group("cot").values(), strict=True))]
        total.backward()
    close(dict(zip(group("out"), outputs, strict=True)), group("out"), tolerance)
    close({key: t.grad for key, t in inputs.items()}, group("gin"), tolerance)
    close({key: p.grad for key, p in model.named_parameters()}, group("gw"), tolerance)
    close(model.state_dict(), group("buf"), tolerance)


def close(got: dict[str, Any], expected: dict[str, Tensor], tolerance: float) -> None:
    """Relative to the largest value of all: a norm over two values has gradients that are nothing but rounding."""
    largest = max((float(t.abs().max()) for t in expected.values()), default=0)
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=tolerance, atol=tolerance * largest, msg=key)


LEVELS = ((2, 16, 16, 24), (2, 24, 8, 12), (2, 32, 4, 6))


class Whole(nn.Module):
    """An up-path, and the fusion of its levels."""

    def __init__(self, norm: Any = "bn") -> None:
        super().__init__()
        self.up = AFADLAUp([16, 24, 32], [1, 2, 4], norm=norm)
        self.fusion = AFALevelFusion([24, 16], norm)

    def forward(self, *layers: Tensor) -> Tensor:
        return self.fusion(self.up(layers))


def levels(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in LEVELS]


def whole(norm: Any = "bn", training: bool = True) -> Whole:
    torch.manual_seed(0)
    return Whole(norm).train(training)


def step(model: nn.Module, layers: Sequence[Tensor]) -> list[Tensor]:
    """The output, and the gradient of every parameter."""
    model.zero_grad()
    out = model(*layers)
    out.float().square().mean().backward()
    return [out.detach(), *(p.grad for p in model.parameters())]


once = pytest.mark.once


@once
@pytest.mark.parametrize("norm", ["bn", "abn"])
@pytest.mark.parametrize("training", [True, False])
def test_as_the_reference(training: bool, norm: str, kernel: str) -> None:
    results = []
    for backend in (kernel, "reference"):
        model = whole(norm, training).double()
        with afa_kernels.use_backend(backend):
            results.append([*step(model, levels(torch.float64)), *model.buffers()])
    torch.testing.assert_close(*results)


@once
def test_another_norm_runs_as_it_is(kernel: str) -> None:
    """A norm that no operation computes, here by the name of a class of its own, gives what BatchNorm2d gives."""

    class Renamed(nn.BatchNorm2d):
        pass

    with afa_kernels.use_backend(kernel):
        results = [
            [*step(model, levels(torch.float64)), *model.buffers()]
            for model in (whole(norm).double() for norm in ("bn", Renamed))
        ]
    torch.testing.assert_close(*results)


@once
def test_bad_norm_activation_and_sizes() -> None:
    with pytest.raises(ValueError, match="norm must be 'bn', 'abn' or a function"):
        AFAIDAUp(16, [16, 32], [1, 2], "gn")
    with pytest.raises(ValueError, match="activation must be one of 'sigmoid', 'abs', 'relu', None, got 'tanh'"):
        afa_kernels.nn.SpatialAttention(8, activation="tanh")
    with pytest.raises(ValueError, match="up_factors must have one entry per layer, 2, got 1"):
        AFAIDAUp(16, [16, 32], [1])
    with pytest.raises(ValueError, match="must have one entry per level"):
        AFADLAUp([16, 32], [1])
    up = AFAIDAUp(16, [16, 16], [1, 1])
    with pytest.raises(ValueError, match="layers must be 2 feature maps, got 1"):
        up([torch.zeros(2, 16, 4, 4)])
    message = r"layers\[1\] of shape \(2, 16, 1, 1\).*must have the shape of layers\[0\], \(2, 16, 4, 4\)"
    with pytest.raises(ValueError, match=message):
        up([torch.zeros(2, 16, 4, 4), torch.zeros(2, 16, 1, 1)])


@once
def test_loads_what_counts_no_batches() -> None:
    """The state dict of InPlaceABN, which has no num_batches_tracked."""
    model = whole("abn")
    state = {key: t for key, t in model.state_dict().items() if "num_batches" not in key}
    whole("abn").load_state_dict(state, strict=True)


@once
def test_few_channels() -> None:
    assert afa_kernels.nn.ChannelAttention(8, 8).conv1[0].out_channels == 1


@once
def test_upsampling_begins_as_bilinear_interpolation() -> None:
    x = torch.randn(1, 3, 5, 6)
    for factor in (2, 4):
        with torch.no_grad():
            got = afa_kernels.nn.aggregation.upsampling(3, factor)(x)
        expected = nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        inner = (..., slice(factor, -factor), slice(factor, -factor))
        torch.testing.assert_close(got[inner], expected[inner])


@once
@pytest.mark.parametrize("training", [True, False])
def test_compiled(training: bool, kernel: str) -> None:
    torch.compiler.reset()
    model = whole(training=training)
    theirs = copy.deepcopy(model)
    with afa_kernels.use_backend(kernel):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        results = [*step(compiled, levels()), *model.buffers()]
        expected = [*step(theirs, levels()), *theirs.buffers()]
    torch.testing.assert_close(results, expected, rtol=1e-4, atol=1e-5)


@once
def test_exported(kernel: str) -> None:
    model = whole(training=False)
    with afa_kernels.use_backend(kernel), torch.no_grad():
        exported = torch.export.export(model, tuple(levels()))
        torch.testing.assert_close(exported.module()(*levels()), model(*levels()))


@once
def test_autocast(kernel: str) -> None:
    """The parameters stay float32; features come in bfloat16 from a backbone under autocast, and stay so."""
    model = whole()
    with afa_kernels.use_backend(kernel), torch.autocast("cpu", torch.bfloat16):
        results = step(model, levels(torch.bfloat16))
    assert results[0].dtype == torch.bfloat16
    assert all(r.isfinite().all() for r in results)


@once
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half(dtype: torch.dtype, memory_format: torch.memory_format, kernel: str) -> None:
    model = whole(training=False)
    halved = copy.deepcopy(model).to(dtype).to(memory_format=memory_format)
    with afa_kernels.use_backend(kernel), torch.no_grad():
        out = halved(*(x.contiguous(memory_format=memory_format) for x in levels(dtype)))
        expected = model(*levels())
    assert out.dtype == dtype and out.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.05 * float(expected.abs().max()))


@once
def test_copied_and_pickled(kernel: str) -> None:
    model = whole()
    with afa_kernels.use_backend(kernel):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model]
        first, *others = [step(m, levels()) for m in copies]
    for other in others:
        torch.testing.assert_close(other, first)


@once
def test_checkpointed(kernel: str) -> None:
    """Recomputed in backward; the running statistics then move once more, as those of any batch norm do."""
    model = whole()
    with afa_kernels.use_backend(kernel):
        expected = step(copy.deepcopy(model), levels())
        out = checkpoint(model, *levels(), use_reentrant=False)
        out.square().mean().backward()
    torch.testing.assert_close([out.detach(), *(p.grad for p in model.parameters())], expected)


def train_on_half_the_batch(rank: int, store: str, results: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = DistributedDataParallel(whole(training=False))  # whose statistics do not depend on the half
    step(model, [x[rank : rank + 1] for x in levels()])
    results[rank] = [p.grad.numpy() for p in model.parameters()]
    torch.distributed.destroy_process_group()


@once
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.skipif(os.name != "posix", reason="the processes meet at a file:// address")
def test_distributed(tmp_path: Path) -> None:
    """Two processes with half a batch each end with the gradients of the whole batch."""
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(train_on_half_the_batch, (str(tmp_path / "store"), results), nprocs=2)
        gradients = [[torch.from_numpy(g) for g in results[rank]] for rank in range(2)]
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], step(whole(training=False), levels())[1:], rtol=1e-4, atol=1e-6)
