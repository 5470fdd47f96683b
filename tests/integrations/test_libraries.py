"""A few lines of a user, with the libraries of the field as they are now. No weights are downloaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from afa_kernels import resized_cross_entropy, resized_labels, scale_space_cross_entropy
from afa_kernels.models import Encoder
from afa_kernels.nn import AttentiveFusion, MultiScale, ScaleSpaceRendering

IMAGE, CLASSES = (2, 3, 64, 96), 5


def trained(model: nn.Module, size: tuple[int, int] = IMAGE[2:]) -> Tensor:
    """One step of training, every parameter with a gradient; the output in evaluation mode."""
    image = torch.randn(*IMAGE[:2], *size)
    out = model.train()(image)
    assert out.shape == (IMAGE[0], CLASSES, *size)
    nn.functional.cross_entropy(out, torch.randint(CLASSES, (IMAGE[0], *size))).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    with torch.no_grad():
        return model.eval()(image)


class Decoder(nn.Module):
    """From the coarsest feature map to the finest, by attentive fusion."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.fuse = nn.ModuleList(AttentiveFusion(s, d) for s, d in zip(channels[-2::-1], channels[:0:-1]))
        self.out = nn.Conv2d(channels[0], CLASSES, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for fuse, shallow in zip(self.fuse, features[-2::-1]):
            x = fuse(shallow, x)
        return self.out(x)


BACKBONES: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("resnet18", "mobilenetv3_small_050", "convnext_atto", "hrnet_w18_small", "dla34")},
    # Its features are NHWC, which Encoder permutes.
    "swin_tiny_patch4_window7_224": {"strict_img_size": False, "embed_dim": 24, "depths": (1, 1, 1, 1)},
}
# These run only where a stride divides the image: by that.
DIVIDED = {"hrnet_w18_small": 32, "dla34": 32, "swin_tiny_patch4_window7_224": 4}


@pytest.mark.parametrize("size", [IMAGE[2:], (75, 101)], ids=["64x96", "75x101"])
@pytest.mark.parametrize("name", BACKBONES)
def test_timm_backbone(name: str, size: tuple[int, int]) -> None:
    """Of a size that no stride divides too."""
    timm = pytest.importorskip("timm")

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = Encoder(timm.create_model(name, features_only=True, pretrained=False, **BACKBONES[name]))
            self.decoder = Decoder(list(self.backbone.channels))

        def forward(self, image: Tensor) -> Tensor:
            return nn.functional.interpolate(self.decoder(self.backbone(image)), image.shape[2:], mode="bilinear")

    network: nn.Module = Network()
    if name in DIVIDED:  # the image resized to that, and the scores back
        network = MultiScale(network, (1.0,), "mean", multiple=DIVIDED[name])
    trained(network, size)


def test_segmentation_models_pytorch_encoder() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = smp.encoders.get_encoder("resnet18", weights=None)
            self.decoder = Decoder(list(self.encoder.out_channels[1:]))  # the first is the image

        def forward(self, image: Tensor) -> Tensor:
            scores = self.decoder(self.encoder(image)[1:])
            return nn.functional.interpolate(scores, image.shape[2:], mode="bilinear")

    trained(Network())


def attend(model: nn.Module, image: Tensor) -> nn.Module:
    """AFA at every skip connection of a decoder of segmentation_models_pytorch; `image` tells the channels."""

    def fuse(block: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        x, *size, skip = (*args, *given.values(), *((None,) if len(args) == 1 else ()))
        if skip is None:
            return None
        if not hasattr(block, "afa"):
            block.afa = AttentiveFusion(skip.shape[1], x.shape[1])
        return (x, *size, block.afa(skip, x)), {}

    for block in model.decoder.modules():
        if type(block).__name__ in ("UnetDecoderBlock", "DecoderBlock", "MFABBlock", "FPNBlock"):
            block.register_forward_pre_hook(fuse, with_kwargs=True)
    model.eval()(image)
    return model


@pytest.mark.parametrize("name, fusions", [("Unet", 4), ("FPN", 3), ("MAnet", 4), ("UnetPlusPlus", 10)])
def test_segmentation_models_pytorch_decoder(name: str, fusions: int) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    network = getattr(smp, name)("resnet18", encoder_weights=None, classes=CLASSES)
    model = attend(network, torch.randn(IMAGE[0], 3, 64, 96))
    assert len([m for m in model.modules() if isinstance(m, AttentiveFusion)]) == fusions
    trained(model)


@pytest.mark.parametrize("name", ["Unet", "FPN", "MAnet", "UnetPlusPlus"])
def test_segmentation_models_pytorch_in_several_scales(name: str) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    network = getattr(smp, name)("resnet18", encoder_weights=None, classes=CLASSES)
    trained(MultiScale(network, (0.5, 1.0), "mean", multiple=64))


def test_torchvision_in_several_scales() -> None:
    segmentation = pytest.importorskip("torchvision.models.segmentation")
    network = segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES)
    head = ScaleSpaceRendering(CLASSES)
    model = MultiScale(network, (0.5, 1.0), head=head, outputs=lambda result: (result["out"], result["out"]))
    trained(model)
    predictions, logits = model.train().scales_of(torch.randn(IMAGE))
    assert scale_space_cross_entropy(predictions, logits, torch.randint(CLASSES, (2, 64, 96))).isfinite()
    assert model.eval().labels(torch.randn(IMAGE)).shape == (2, 64, 96)


def test_torchvision_with_attentive_skip() -> None:
    """fcn_resnet50 whose scores are made of its last level fused with a finer one."""
    torchvision = pytest.importorskip("torchvision")
    fcn = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES)
    fcn.backbone.return_layers = {"layer1": "shallow", "layer4": "out"}

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.fuse = fcn.backbone, AttentiveFusion(256, 2048)
            self.classifier = torchvision.models.segmentation.fcn.FCNHead(256, CLASSES)

        def forward(self, image: Tensor) -> Tensor:
            levels = self.backbone(image)
            scores = self.classifier(self.fuse(levels["shallow"], levels["out"]))
            return nn.functional.interpolate(scores, image.shape[2:], mode="bilinear")

    trained(Skip())


def test_transformers_segformer_in_several_scales() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        num_labels=CLASSES, depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 128], decoder_hidden_size=32
    )
    network = transformers.SegformerForSemanticSegmentation(config)

    def outputs(result: Any) -> tuple[Tensor, Tensor]:
        return result.logits, result.hidden_states[0]

    network.config.output_hidden_states = True
    model = MultiScale(network, (0.5, 1.0), head=ScaleSpaceRendering(16), outputs=outputs, multiple=32)
    trained(model)


def test_ttach_around_several_scales() -> None:
    ttach = pytest.importorskip("ttach")
    model = MultiScale(nn.Conv2d(3, CLASSES, 1), (0.5, 1.0), "mean").eval()
    flipped = ttach.SegmentationTTAWrapper(model, ttach.aliases.hflip_transform(), merge_mode="mean")
    image = torch.randn(IMAGE)
    with torch.no_grad():
        expected = MultiScale(model.network, (0.5, 1.0), "mean", flip=True).eval()(image)
        torch.testing.assert_close(flipped(image), expected)


def test_torchmetrics_of_labels() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    model = MultiScale(nn.Conv2d(3, CLASSES, 1), (0.5, 1.0), "mean").eval()
    image = torch.randn(IMAGE)
    labels = model.labels(image)
    assert classification.MulticlassJaccardIndex(CLASSES)(labels, labels) == 1


def test_lightning_module(tmp_path: Any) -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = MultiScale(nn.Conv2d(3, CLASSES, 1), (0.5, 1.0), "mean")

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            image, target = batch
            return nn.functional.cross_entropy(self.model(image), target)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 16, 24), torch.randint(CLASSES, (4, 16, 24)))
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    module = Module()
    before = module.model.network.weight.clone()
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=2))
    assert not torch.equal(before, module.model.network.weight)


def test_torchvision_deeplab_with_the_fused_last_step() -> None:
    segmentation = pytest.importorskip("torchvision.models.segmentation")
    torch.manual_seed(0)
    network = segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
    ).eval()
    image, target = torch.randn(IMAGE), torch.randint(CLASSES, (IMAGE[0], *IMAGE[2:]))
    features = network.backbone(image)
    low = {"out": network.classifier(features["out"]), "aux": network.aux_classifier(features["aux"])}
    loss = sum(share * resized_cross_entropy(low[name], target) for name, share in (("out", 1.0), ("aux", 0.4)))
    full = network(image)
    expected = sum(
        share * nn.functional.cross_entropy(full[name], target) for name, share in (("out", 1.0), ("aux", 0.4))
    )
    torch.testing.assert_close(loss, expected)
    mine, theirs = (
        torch.autograd.grad(x, network.classifier[-1].weight, retain_graph=True)[0] for x in (loss, expected)
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    labels = resized_labels(low["out"], IMAGE[2:])
    assert (labels != full["out"].argmax(1)).float().mean() < 1e-3


def test_transformers_mask2former_in_several_scales() -> None:
    transformers = pytest.importorskip("transformers")
    backbone = transformers.SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, num_labels=CLASSES, num_queries=6, hidden_dim=32, feature_size=32,
        mask_feature_size=32, encoder_layers=1, decoder_layers=2, encoder_feedforward_dim=32, dim_feedforward=32,
        num_attention_heads=2,
    )  # fmt: skip
    network = transformers.Mask2FormerForUniversalSegmentation(config)

    def outputs(result: Any) -> tuple[Tensor, Tensor]:
        """The scores of classes: of each query its masks, weighed by its classes less "no object"."""
        classes = result.class_queries_logits.softmax(-1)[..., :-1]
        masks = result.masks_queries_logits.sigmoid()
        return torch.einsum("nqc,nqhw->nchw", classes, masks), result.pixel_decoder_last_hidden_state

    model = MultiScale(network, (0.5, 1.0), head=ScaleSpaceRendering(32), outputs=outputs, multiple=64)
    out = model.train()(torch.randn(IMAGE))
    assert out.shape == (IMAGE[0], CLASSES, *IMAGE[2:])
    out.square().mean().backward()
    assert all(p.grad is not None for p in model.head.parameters())
    assert model.eval().labels(torch.randn(IMAGE)).shape == (IMAGE[0], *IMAGE[2:])


def test_mmengine_builds_modules_from_a_configuration() -> None:
    mmengine = pytest.importorskip("mmengine")
    registry = mmengine.Registry("models")
    registry.register_module(module=AttentiveFusion)
    fuse = registry.build({"type": "AttentiveFusion", "shallow_channels": 8, "deep_channels": 16})
    assert fuse(torch.randn(2, 8, 8, 8), torch.randn(2, 16, 4, 4)).shape == (2, 8, 8, 8)
