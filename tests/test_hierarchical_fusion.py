"""hierarchical_fusion: values by hand, recorded values of both codebases, and what it equals."""

from __future__ import annotations

import pytest
import torch
from support import recorded
from torch import Tensor

import afa_kernels
from afa_kernels.testing import DEVICE, saved_storages


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_values_by_hand(backend: str) -> None:
    """One row. The coarse prediction (0, 8) and attention (1/2, 1) lie at -1/4 (so 0), 1/4, 3/4 and 5/4 (so 1) of 2."""
    predictions, attentions = [row(0, 8), row(16, 16, 32, 32)], [row(0.5, 1)]
    with afa_kernels.use_backend(backend):
        afa = afa_kernels.hierarchical_fusion(predictions, attentions, (0.5, 1.0))
        nvidia = afa_kernels.hierarchical_fusion(predictions, attentions, (0.5, 1.0), variant="nvidia")
    a = torch.tensor([4, 5, 7, 8]) / 8  # the attention, resized
    behind = (1 - a) * torch.tensor([16, 16, 32, 32])
    torch.testing.assert_close(afa.flatten(), (a * torch.tensor([0, 2, 6, 8]) + behind).double())
    torch.testing.assert_close(nvidia.flatten(), (torch.tensor([0, 2, 6, 8]) + behind).double())


def test_fine_scales_are_resized_down_one_by_one(backend: str) -> None:
    """From scale 2 to 1 two pixels become one: their mean."""
    predictions = [row(8), row(2, 4)]
    with afa_kernels.use_backend(backend):
        for variant in ("afa", "nvidia"):
            fused = afa_kernels.hierarchical_fusion(predictions, [row(0.25)], (1.0, 2.0), variant=variant)
            torch.testing.assert_close(fused, row(0.25 * 8 + 0.75 * 3))


@pytest.mark.device
@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.once)])
@pytest.mark.parametrize("name", recorded.names("hma_", "nv_"))
def test_recorded(name: str, dtype: torch.dtype, backend: str) -> None:
    """The predictions, the auxiliary ones where there are, and the gradients of their loss."""
    record = recorded.load(name)
    scales, size = record["in.scales"].tolist(), tuple(record["in.image_size"].tolist())
    variant = "nvidia" if name.startswith("nv_") else "afa"
    kinds = ["pred", "attn"] + (["aux"] if f"in.aux_{scales[0]}" in record else [])
    leaves = {f"{kind}_{s}": record[f"in.{kind}_{s}"].to(dtype).requires_grad_() for kind in kinds for s in scales}
    attentions = [leaves[f"attn_{s}"] for s in scales]
    loss = torch.zeros((), dtype=dtype, device=DEVICE)
    budget = {"rtol": 1e-6, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    with afa_kernels.use_backend(backend):
        for kind in (kind for kind in kinds if kind != "attn"):
            predictions = [leaves[f"{kind}_{s}"] for s in scales]
            fused = afa_kernels.hierarchical_fusion(predictions, attentions, scales, size, variant=variant)
            torch.testing.assert_close(fused.double(), record[f"out.{kind}"], **budget)
            share = 0.4 if kind == "aux" else 1.0
            loss = loss + share * (fused * record[f"cot.{kind}"].to(dtype)).sum()
        if name == "hma_compose_2scales_train":  # whose loss has the resized predictions in it
            for s in scales:
                resized = torch.nn.functional.interpolate(leaves[f"pred_{s}"], size, mode="bilinear")
                loss = loss + 0.05 * (resized * record[f"cot.pred_{s}_resized"].to(dtype)).sum()
        loss.backward()
    for key, leaf in leaves.items():
        if f"gin.{key}" in record:
            expected = record[f"gin.{key}"].double()
            assert leaf.grad is not None
            torch.testing.assert_close(leaf.grad.double(), expected, rtol=budget["rtol"], atol=budget["rtol"] / 10)
        else:
            assert leaf.grad is None or not leaf.grad.any(), key


def test_the_rendering_it_equals(backend: str) -> None:
    predictions = [torch.randn(2, 3, h, w, dtype=torch.float64) for h, w in ((3, 5), (6, 10), (9, 15))]
    logits = torch.randn(2, 3, 6, 10, dtype=torch.float64)
    attentions = list(logits.sigmoid().split(1, dim=1))
    with afa_kernels.use_backend(backend):
        options = {"phi": "softplus", "background": "last", "resize": "opacities"}
        rendered = afa_kernels.scale_space_render(predictions, logits, (12, 20), **options)
        fused = afa_kernels.hierarchical_fusion(predictions, attentions, (0.5, 1.0, 1.5), (12, 20))
    torch.testing.assert_close(fused, rendered)


@pytest.mark.once
def test_saves_only_its_arguments(kernel: str) -> None:
    predictions = [torch.randn(1, 8, 8, 16, requires_grad=True), torch.randn(1, 8, 16, 32, requires_grad=True)]
    attentions = [torch.rand(1, 1, 8, 16, requires_grad=True)]
    with afa_kernels.use_backend(kernel):
        saved = saved_storages(lambda: afa_kernels.hierarchical_fusion(predictions, attentions, (0.5, 1.0)))
    assert set(saved) == {t.untyped_storage().data_ptr() for t in (*predictions, *attentions)}


@pytest.mark.once
def test_the_finest_attention_may_be_left_out(backend: str) -> None:
    predictions = [torch.randn(1, 2, 2, 3), torch.randn(1, 2, 4, 6)]
    coarse, fine = torch.rand(1, 1, 2, 3), torch.rand(1, 1, 4, 6)
    with afa_kernels.use_backend(backend):
        without = afa_kernels.hierarchical_fusion(predictions, [coarse], (0.5, 1.0))
        assert torch.equal(afa_kernels.hierarchical_fusion(predictions, [coarse, fine], (0.5, 1.0)), without)


@pytest.mark.parametrize("variant", ["afa", "nvidia"])
def test_the_result_is_no_prediction(variant: str, backend: str) -> None:
    """One that is written into leaves the prediction as it was."""
    x = torch.randn(1, 2, 3, 4)
    with afa_kernels.use_backend(backend):
        fused = afa_kernels.hierarchical_fusion([x], [], (1.0,), variant=variant)
    assert fused.data_ptr() != x.data_ptr() and torch.equal(fused, x)


@pytest.mark.parametrize("variant", ["afa", "nvidia"])
def test_no_classes(variant: str, backend: str) -> None:
    with afa_kernels.use_backend(backend):
        fused = afa_kernels.hierarchical_fusion([torch.ones(1, 0, 3, 3)], [], (1.0,), size=(6, 6), variant=variant)
    assert fused.shape == (1, 0, 6, 6)
