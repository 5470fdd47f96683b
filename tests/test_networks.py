"""Whole networks: values recorded from the official code, and what their interface promises.

AFA_KERNELS_NETWORKS=all runs every recorded network, and in float32 too; without it the small ones run in float64.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden_networks
import pytest
import torch
import torch.nn.functional as F
from support.networks import KINDS, Pyramid, small, without_dropout
from torch import Tensor, nn

from afa_kernels import models
from afa_kernels.testing import peak_bytes, saved_bytes

GOLDEN = Path(__file__).parent / "golden" / "networks"
sys.path.insert(0, str(GOLDEN))
import check_networks  # noqa: E402

ALL = os.environ.get("AFA_KERNELS_NETWORKS") == "all"
SMALL = (
    "backbone_dla34",
    "dla_seg_bn",
    "afa_seg_abn",
    "afa_seg_rmi_bn",
    "afa_ssr_abn_90x123",
    "afa_ocr_ssr_dla102x_bn",
)
RECORDED = sorted(path.stem for path in GOLDEN.glob("*.npz") if ALL or path.stem in SMALL)

pytestmark = pytest.mark.once


@pytest.mark.parametrize("dtype", ["float64", "float32"] if ALL else ["float64"])
@pytest.mark.parametrize("name", RECORDED)
def test_recorded(name: str, dtype: str) -> None:
    """Outputs, losses, gradients and buffers of the official networks; keys, shapes and their order."""
    case, lines, reference = check_networks.load_case(GOLDEN / f"{name}.npz")
    criteria = check_networks.CRITERIA
    got, found = check_networks.measure(golden_networks.build, case, getattr(torch, dtype), criteria, lines)
    assert found == lines
    for group, (error, what) in check_networks.compare(reference, got, lines).items():
        assert error <= check_networks.limit_of(dtype, group, case["noise"]), (group, what)


@pytest.mark.parametrize("path", sorted((GOLDEN / "keys").glob("*.txt")), ids=lambda path: path.stem)
def test_keys(path: Path) -> None:
    """Every official state dict with 19 classes, on the meta device; unused entries are there too."""
    name, _, base = path.stem.rpartition("_")
    with torch.device("meta"):
        net = golden_networks.build(name, base, num_classes=19)
    lines = [line.removesuffix(" unused") for line in path.read_text().splitlines() if not line.startswith("#")]
    assert check_networks.listing(net) == lines


IMAGES, TARGETS = torch.randn(2, 3, 64, 128), torch.randint(5, (2, 64, 128))


@pytest.fixture(params=KINDS, ids=lambda kind: kind.replace(" ", "-"))
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return KINDS[request.param]


@pytest.mark.parametrize("size", [(128, 128), (90, 123)])
def test_streaming_as_with_gradients(size: tuple[int, int], options: dict[str, Any]) -> None:
    """Folded, in channels_last and in strips, against every layer called; an image that asks for a gradient gets it."""
    net = small(**options).eval()
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.uniform_(-0.2, 0.2)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        streamed = net(image)
    recorded = net(image.requires_grad_())
    recorded.sum().backward()
    assert not streamed.requires_grad and image.grad is not None and image.grad.any()
    torch.testing.assert_close(streamed, recorded.detach(), rtol=1e-4, atol=1e-4)
    assert_labels_of(net, image.detach(), streamed)


def assert_labels_of(net: models.Segmentation, image: Tensor, scores: Tensor) -> None:
    """The argmax, but where the two best are within rounding of one another."""
    best = scores.topk(2, 1).values
    differing = net.labels(image) != scores.argmax(1)
    assert not (differing & (best[:, 0] - best[:, 1] > 1e-4)).any()


@pytest.mark.parametrize("size", [(128, 256), (90, 123)])
def test_labels_without_the_scores(size: tuple[int, int]) -> None:
    """In every type that is asked for; where the upsampling was changed, and where the network is hooked, too."""
    net, image = small().eval(), torch.randn(2, 3, *size)
    assert net.labels(image, dtype=torch.uint8).dtype == torch.uint8
    scores = net(image)
    assert_labels_of(net, image, scores)
    _, best = net.labels(image, value="score")
    torch.testing.assert_close(best, scores.amax(1))
    with torch.no_grad():
        assert peak_bytes(lambda: net.labels(image)) < 0.9 * peak_bytes(lambda: net(image))
        net.up.weight[1] *= 3
    assert_labels_of(net, image, net(image))
    seen: list[Any] = []
    net.register_forward_hook(lambda *_: seen.append(1))
    net.labels(image)
    assert seen


def test_labels_follow_what_a_subclass_predicts() -> None:
    class Opposite(models.DLASegmentation):
        def predict(self, image: Tensor) -> tuple[Any, ...]:
            scores, *rest = super().predict(image)
            return -scores, *rest

    torch.manual_seed(0)
    net = Opposite(models.DLA("dla46_c", first_level=1), num_classes=3).eval()
    assert torch.equal(net.labels(IMAGES), net(IMAGES).argmax(1))


@pytest.mark.parametrize("size", [(64, 128), (50, 70)])
def test_fused_losses_as_in_the_official_order(size: tuple[int, int], options: dict[str, Any]) -> None:
    targets = torch.randint(5, (2, *size))
    targets[:, :3] = 255
    results, saved = [], []
    for fused in (False, True):
        net = without_dropout(small(fused_losses=fused, **options)).double().train()
        losses = net.losses(torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).double(), targets)
        sum(losses.values()).backward()
        results.append([losses, [p.grad for p in net.parameters() if p.grad is not None]])
        net.zero_grad()
        saved.append(saved_bytes(lambda: list(net.losses(torch.randn(2, 3, *size).double(), targets).values())))
    torch.testing.assert_close(results[1], results[0])
    assert saved[1] < saved[0]


def test_changed_upsampling_is_not_taken_for_bilinear() -> None:
    nets = [small(fused_losses=fused).train() for fused in (False, True)]
    for net in nets:
        net.losses(IMAGES, TARGETS)  # asks whether it is
        with torch.no_grad():
            net.up.weight[0, 0, 0, 0] += 1
    torch.testing.assert_close(*(net.losses(IMAGES, TARGETS) for net in nets))


def test_scale_one_runs_though_it_is_not_listed() -> None:
    net = small(fuse="ssr", scales=(0.5,), training_scales=(0.5,))
    sizes: list[int] = []
    net.backbone.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[3]))
    net.train().losses(IMAGES, TARGETS)
    assert sizes == [128, 64]


def test_hooks_and_norms_of_ones_own_are_called() -> None:
    seen = []
    net = models.create("afa_dla34", num_classes=3).eval()
    with torch.no_grad():
        expected = net(IMAGES)
        net.backbone.base.level2.tree1.bn1.register_forward_hook(lambda *_: seen.append("norm"))
        net.backbone.base.level1[0].register_forward_hook(lambda *_: seen.append("convolution"))
        net.backbone.afa_dla_up.afa_ida_0.proj_1.register_forward_hook(lambda *_: seen.append("projection"))
        torch.testing.assert_close(net(IMAGES), expected, rtol=1e-3, atol=1e-3)
    assert seen == ["convolution", "norm", "projection"]


@pytest.mark.parametrize("fusion", ["afa", "concat", "sum", "sum_conv"])
def test_other_networks(fusion: str) -> None:
    nets = models.afa_unet(Pyramid(), 5, fusion), models.afa_fcn(Pyramid(), 5, fusion), models.afa_hrnet(Pyramid(), 5)
    for net in nets:
        losses = net.train().losses(IMAGES, TARGETS)
        losses["main_loss"].backward()
        assert list(losses) == ["main_loss"]
        frozen = {"up.weight"}
        for name, parameter in net.named_parameters():
            assert (parameter.grad is None) == (name in frozen) or name.startswith("encoder."), name
        assert net.eval()(torch.randn(1, 3, 100, 90)).shape == (1, 5, 100, 90)


def test_names() -> None:
    assert "afa_dla34" in models.list() and len(models.list()) == 60
    assert isinstance(models.create("afa_dla34_ssr", num_classes=2, scales=(0.5, 1.0)), models.AFASegmentationSSR)
    assert isinstance(models.create("dla34"), models.DLA)


def test_encoders() -> None:
    class Last(nn.Module):
        output_fmt = "NHWC"

        def forward(self, image: Tensor) -> list[Tensor]:
            return [F.avg_pool2d(image, s).permute(0, 2, 3, 1) for s in (4, 8, 16)]

    maps = models.Encoder(Last(), (3, 3, 3), (4, 8, 16))(IMAGES)
    assert [tuple(x.shape[1:]) for x in maps] == [(3, 16, 32), (3, 8, 16), (3, 4, 8)]
    with pytest.raises(ValueError, match="model must return a list of 2 maps, got 3 maps"):
        models.Encoder(Last(), (3, 3), (4, 8))(IMAGES)
    with pytest.raises(ValueError, match=r"maps of \(5, 3, 3\) channels, got map 0 of shape"):
        models.Encoder(Last(), (5, 3, 3), (4, 8, 16))(IMAGES)
    with pytest.raises(TypeError, match="features_only=True"):
        models.Encoder(nn.Identity())


def test_timm() -> None:
    """timm's networks as encoders, and its weights of DLA, with which all levels are equal."""
    timm = pytest.importorskip("timm")
    for name in ("resnet18", "convnext_atto"):
        net = models.afa_up(timm.create_model(name, features_only=True), num_classes=5).eval()
        assert net(torch.randn(1, 3, 64, 64)).shape == (1, 5, 64, 64)
    theirs, ours = timm.create_model("dla34", features_only=True).eval(), models.DLA("dla34", first_level=1).eval()
    ours.load_timm(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(theirs(IMAGES), ours(IMAGES.requires_grad_()), strict=True))


def test_weights_of_timm_by_their_names() -> None:
    net = models.DLA("dla34")
    state = net.to_timm()
    assert len(net.state_dict()) - len(state) == 12 and not any("level3.project" in key for key in state)
    models.DLA("dla34").load_timm({key: t for key, t in state.items() if not key.startswith("fc.")})
    del state["level2.root.conv.weight"]
    with pytest.raises(RuntimeError, match=r"level2\.root\.conv\.weight is missing"):
        models.DLA("dla34").load_timm(state)


class Odd:
    """An object in a file that may not run code."""


def test_checkpoints(tmp_path: Path) -> None:
    net = small(norm="abn")
    state = {key: t + 1 for key, t in net.state_dict().items()}
    file = tmp_path / "a.ckpt"
    lightning = {f"net.{key}": t for key, t in state.items() if "num_batches" not in key}
    lightning["loss.weight"] = torch.ones(1)
    torch.save({"state_dict": lightning, "epoch": 3}, file)
    report = models.load_checkpoint(net, file)
    assert report.loaded == len(lightning) - 1 and list(report.skipped) == ["loss.weight"]
    assert all("num_batches" in key for key in report.kept)
    assert torch.equal(net.fc[0].weight, state["fc.0.weight"])
    # another number of classes, another network, and files that cannot be read: an error, and nothing is loaded
    other = models.afa_up(Pyramid(), num_classes=2, norm="abn")
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(RuntimeError, match=r"fc\.0\.weight has the shape \(5, 16, 1, 1\), not \(2, 16, 1, 1\)"):
        models.load_checkpoint(other, file)
    with pytest.raises(RuntimeError, match=r"not that of this AFAUNet: encoder\.stages\.0\.0\.weight is missing"):
        models.load_checkpoint(models.afa_unet(Pyramid(), 5), file)
    truncated, text, odd = (tmp_path / name for name in ("truncated", "text", "odd"))
    truncated.write_bytes(file.read_bytes()[:-1000])
    text.write_text("no checkpoint")
    torch.save({"state_dict": lightning, "config": Odd()}, odd)
    for path, message in ((truncated, "cannot be read"), (text, "cannot be read"), (odd, "give trusted=True")):
        with pytest.raises(ValueError, match=message):
            models.load_checkpoint(other, path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        models.load_checkpoint(other, tmp_path / "none")
    with pytest.raises(ValueError, match="must be a state dict or have one by the name state_dict, got 'epoch', a int"):
        models.load_checkpoint(other, {"epoch": 3})
    torch.testing.assert_close(other.state_dict(), before, rtol=0, atol=0)
    heads = [name for name, _ in other.named_children() if name.startswith(("fc", "up"))]
    assert models.load_checkpoint(other, odd, skip=heads, trusted=True).kept["fc.0.weight"] == "asked for"


def test_losses_as_the_checker_writes_them() -> None:
    scores, labels = torch.randn(2, 5, 37, 45).double(), torch.randint(6, (2, 37, 45))
    for ours, theirs in (
        (models.BinaryCrossEntropy(5), lambda *a: check_networks.CRITERIA["rmi"](*a, do_rmi=False)),
        (models.RegionMutualInformation(5), check_networks.CRITERIA["rmi"]),
    ):
        torch.testing.assert_close(ours(scores, labels), theirs(scores, labels))
    two, edges = scores[:, :2], labels.clamp(max=2)
    torch.testing.assert_close(models.BoundaryLoss()(two, edges), check_networks.CRITERIA["edge"](two, edges))


@pytest.mark.parametrize(
    "act, error, message",
    [
        (lambda: small()(torch.zeros(3, 64, 64)), ValueError, r"image must"),
        (lambda: models.DLA()(torch.zeros(1, 1, 64, 64)), ValueError, r"must have the shape \(N, 3, H, W\)"),
        (lambda: models.DLA()(torch.zeros(1, 3, 65, 64)), ValueError, "multiples of 32, got 65 x 64"),
        (lambda: models.DLA("dla35"), ValueError, "name must be one of dla34, .* got 'dla35'"),
        (lambda: models.create("afa_dla35"), ValueError, "close to it: afa_dla34"),
        (lambda: models.create("afa_dla34"), ValueError, "num_classes must be given"),
        (lambda: models.create("afa_dla34", num_classes=0), ValueError, "num_classes must be at least 1, got 0"),
        (lambda: models.create("dla34", num_classes=3), ValueError, "num_classes must not be given"),
        (lambda: small().losses(IMAGES, TARGETS + 1), ValueError, "classes from 0 to 4 or .* 255, got 5"),
        (lambda: small().losses(IMAGES, TARGETS[:, 1:]), ValueError, "targets must have shape"),
        (lambda: small().losses(IMAGES, TARGETS.float()), TypeError, "targets must"),
        (lambda: small(fuse="mean"), ValueError, "fuse must be None, 'ssr' or 'hma'"),
        (
            lambda: small(fused_losses=True, criterion=models.BinaryCrossEntropy(5)),
            ValueError,
            "criterion must be an nn.CrossEntropyLoss",
        ),
        (lambda: models.afa_unet(Pyramid(), 5, "max"), ValueError, "fusion must be 'afa', .* got 'max'"),
        (lambda: models.BinaryCrossEntropy(5)(torch.zeros(1, 4, 8, 8), TARGETS[:1, :8, :8]), ValueError, "num_classes"),
    ],
)
def test_refusals(act: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        act()
