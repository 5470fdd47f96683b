"""MultiScale and ScaleSpaceRendering: recorded values of the official code, streaming against all at once, refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support import recorded
from torch import Tensor, nn

import afa_kernels
from afa_kernels.nn import MultiScale, ScaleSpaceRendering
from afa_kernels.testing import DEVICE, peak_bytes

SCALES = (0.5, 1.0, 1.5)


@pytest.mark.device
def test_recorded(backend: str) -> None:
    """Training of dla-afa with its head: predictions, auxiliary predictions, gradients, statistics."""
    record = recorded.load("ssr_compose_2scales_head_train")

    def group(prefix: str) -> dict[str, Tensor]:
        return recorded.group(record, prefix, torch.float64)

    fuse = ScaleSpaceRendering(8).to(DEVICE, torch.float64)
    fuse.load_state_dict(group("w"), strict=True)
    inputs = {key: t.requires_grad_() for key, t in group("in").items() if t.is_floating_point() and key != "scales"}
    expected, cotangents = group("out"), group("cot")
    scales, size = (0.5, 1.0), (12, 16)
    with afa_kernels.use_backend(backend):
        features = [inputs[f"feat_{s}"] for s in scales]
        logits = [fuse.logits(F.interpolate(f, (8, 8), mode="bilinear")) for f in features]
        outputs = {"pred": afa_kernels.scale_space_render([inputs[f"pred_{s}"] for s in scales], logits, size)}
        for j in range(4):
            finals = [inputs[f"final_{s}_{j}"] for s in scales]
            outputs[f"aux{j}"] = afa_kernels.scale_space_render(finals, logits, size)
        for s in scales:
            outputs[f"pred_{s}_resized"] = F.interpolate(inputs[f"pred_{s}"], size, mode="bilinear")
        loss = sum((1.0 if name == "pred" else 0.05) * (o * cotangents[name]).sum() for name, o in outputs.items())
        loss.backward()
        twin = ScaleSpaceRendering(8).to(DEVICE, torch.float64)
        twin.load_state_dict(group("w"))
        predictions = [inputs[f"pred_{s}"] for s in scales]
        torch.testing.assert_close(twin(predictions, features, scales, size), outputs["pred"])
    for name, output in outputs.items():
        torch.testing.assert_close(output, expected[name], rtol=1e-6, atol=1e-9)
    for name, gradient in group("gin").items():
        torch.testing.assert_close(inputs[name].grad, gradient, rtol=1e-6, atol=1e-7)
    for name, gradient in group("gw").items():
        torch.testing.assert_close(fuse.get_parameter(name).grad, gradient, rtol=1e-6, atol=1e-6)
    for name, buffer in group("buf").items():
        torch.testing.assert_close(fuse.get_buffer(name), buffer, rtol=1e-6, atol=1e-9)


class Network(nn.Module):
    """Predictions at half the image's size, features at a quarter."""

    def __init__(self, classes: int = 5, features: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.predict = nn.Conv2d(3, classes, 3, stride=2, padding=1)
        self.describe = nn.Conv2d(3, features, 3, stride=4, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(image), self.describe(image)


def model(fuse: str = "ssr", **options: object) -> MultiScale:
    head = None if fuse == "mean" else ScaleSpaceRendering(4)
    return MultiScale(Network(), SCALES, fuse, head, **options).eval()


@pytest.mark.once
@pytest.mark.parametrize("size", [(24, 32), (21, 37)])
@pytest.mark.parametrize("fuse", ["ssr", "hma", "mean"])
def test_streaming_as_all_at_once(fuse: str, size: tuple[int, int], backend: str) -> None:
    """And as the composition written in PyTorch, of an image resized up to a multiple of 8."""
    net, image = model(fuse, multiple=8), torch.randn(2, 3, *size)
    with afa_kernels.use_backend(backend):
        streamed = net(image)
        predictions, logits = net.scales_of(image)
        fused = net._at_once(image)
    assert streamed.shape == (2, 5, *size) and not streamed.requires_grad and fused.requires_grad
    torch.testing.assert_close(streamed, fused)
    base = F.interpolate(image, [-(-side // 8) * 8 for side in size], mode="bilinear")
    for k, scale in enumerate(SCALES):
        scaled = F.interpolate(base, scale_factor=scale, mode="bilinear", recompute_scale_factor=True)
        torch.testing.assert_close(predictions[k], net.network(scaled)[0])
    up = [F.interpolate(p, size, mode="bilinear") for p in predictions]
    if fuse == "ssr":
        depth = torch.cat(logits, 1).abs()
        weights = (1 - torch.exp(-depth)) * torch.exp(depth - depth.cumsum(1))
        weights = F.interpolate(weights, size, mode="bilinear")
    elif fuse == "hma":
        a, b = (F.interpolate(y.sigmoid(), size, mode="bilinear") for y in logits[:2])
        weights = torch.cat([a, (1 - a) * b, (1 - a) * (1 - b)], 1)
    else:
        weights = torch.full((2, 3, 1, 1), 1 / 3)
    torch.testing.assert_close(streamed, sum(weights[:, k : k + 1] * up[k] for k in range(3)))


@pytest.mark.once
@pytest.mark.parametrize("fuse", ["ssr", "hma", "mean"])
def test_training(fuse: str, backend: str) -> None:
    """Over the training scales, with a gradient for every parameter that takes part."""
    net = model(fuse, training_scales=(0.5, 1.0)).train()
    with afa_kernels.use_backend(backend):
        out = net(torch.randn(2, 3, 24, 32))
        out.square().mean().backward()
    assert out.shape == (2, 5, 24, 32)
    unused = () if fuse != "mean" else ("network.describe.weight", "network.describe.bias")
    for name, parameter in net.named_parameters():
        if name not in unused:
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
    if fuse != "mean":
        assert net.head.conv[1][0].num_batches_tracked == 2
    assert net.eval()(torch.randn(1, 3, 24, 32)).shape == (1, 5, 24, 32)


@pytest.mark.once
def test_a_loss_without_the_rendering(kernel: str) -> None:
    net, image, target = model().train(), torch.randn(2, 3, 24, 32), torch.randint(5, (2, 24, 32))
    with afa_kernels.use_backend(kernel):
        predictions, logits = net.scales_of(image)
        loss = afa_kernels.scale_space_cross_entropy(predictions, logits, target)
        torch.testing.assert_close(loss, F.cross_entropy(net(image), target))


@pytest.mark.once
def test_labels_flip_and_early_stop(kernel: str) -> None:
    net, image = model(), torch.randn(1, 3, 24, 32)
    with afa_kernels.use_backend(kernel):
        plain = net(image)
        assert torch.equal(net.labels(image, dtype=torch.uint8).long(), plain.argmax(1))
        flipped = net(image.flip(-1)).flip(-1)
        net.flip = True
        torch.testing.assert_close(net(image), (plain + flipped) / 2)
        calls = []
        net.network.register_forward_hook(lambda *_: calls.append(1))
        net.flip, net.eps = False, 0.0
        net(image)
        assert len(calls) == 3
        net.eps = 1.0  # what every transmittance is below
        net(image)
        assert len(calls) == 3 + 2  # scale 1.0 runs first; the others stop behind 0.5


@pytest.mark.once
def test_logits_of_the_network_itself(kernel: str) -> None:
    class Direct(Network):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            prediction, features = super().forward(image)
            return prediction, features[:, :1]

    image = torch.randn(1, 3, 24, 32)
    with afa_kernels.use_backend(kernel):
        for fuse in ("ssr", "hma"):
            net = MultiScale(Direct(), SCALES, fuse).eval()
            torch.testing.assert_close(net(image), net._at_once(image))


@pytest.mark.once
def test_progress(kernel: str, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    with afa_kernels.use_backend(kernel):
        model(progress=True)(torch.randn(1, 3, 24, 32))
    assert "3/3" in capfd.readouterr().err


@pytest.mark.once
def test_autocast_and_compile(kernel: str) -> None:
    """Half predictions are fused in float32; a compiled network sees one size for each scale."""
    torch.compiler.reset()
    net, image = model(), torch.randn(1, 3, 24, 32)
    with afa_kernels.use_backend(kernel):
        plain = net(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(image)
            trained = model().train()(torch.cat([image, image]))
        assert half.dtype == trained.dtype == torch.float32
        torch.testing.assert_close(half, plain, rtol=0.1, atol=0.1)
        net.network = torch.compile(net.network, backend="aot_eager", dynamic=False)
        torch.testing.assert_close(net(image), plain)


@pytest.mark.once
@pytest.mark.parametrize("fuse", ["ssr", "hma", "mean"])
def test_the_memory_of_one_rendering(fuse: str, kernel: str) -> None:
    """Beyond the network's own, here the predictions, given beforehand."""
    given = {int(64 * s): (torch.randn(1, 19, int(32 * s), int(64 * s)), torch.randn(1, 1, 8, 16)) for s in SCALES}

    class Given(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            return given[image.shape[2]]

    net, image = MultiScale(Given(), SCALES, fuse).eval(), torch.randn(1, 1, 64, 128)
    with afa_kernels.use_backend(kernel):
        assert peak_bytes(lambda: net(image)) <= 1.2 * 19 * 64 * 128 * 4


class Unfinished(Network):
    def forward(self, image: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().forward(image)[0], None


@pytest.mark.once
@pytest.mark.parametrize("fuse", ["ssr", "hma", "mean"])
def test_a_pair_of_multiples(fuse: str, kernel: str) -> None:
    """Height and width are each resized up, and no more than that."""

    class Strict(Network):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            assert image.shape[2] % 16 == 0 and image.shape[3] % 4 == 0, image.shape
            return super().forward(image)

    for size, base in (((33, 40), (64, 40)), ((64, 48), (64, 48)), ((31, 41), (32, 48))):
        net = MultiScale(Strict(), (0.5, 1.0), fuse, ScaleSpaceRendering(4), multiple=(32, 8)).eval()
        seen: list[tuple[int, ...]] = []
        net.network.register_forward_pre_hook(lambda m, args, seen=seen: seen.append(tuple(args[0].shape[2:])))
        image = torch.randn(1, 3, *size)
        with afa_kernels.use_backend(kernel):
            assert net(image).shape == (1, 5, *size)
            assert sorted(seen) == [(base[0] // 2, base[1] // 2), base]
            assert net.train()(torch.cat([image, image])).shape == (2, 5, *size)


@pytest.mark.once
@pytest.mark.parametrize("fuse", ["ssr", "hma", "mean"])
def test_numbers_of_numpy(fuse: str, kernel: str) -> None:
    numpy = pytest.importorskip("numpy")
    image, head = torch.randn(1, 3, 21, 37), ScaleSpaceRendering(4).eval()
    expected = MultiScale(Network(), (0.5, 1.0, 2.0), fuse, head, multiple=8).eval()(image)
    for scales in (
        [numpy.float32(0.5), numpy.float64(1), numpy.int64(2)],
        list(numpy.array([0.5, 1, 2])),
        [0.5, 1, torch.tensor(2)],
    ):
        net = MultiScale(Network(), scales, fuse, head, multiple=(numpy.int64(8), numpy.int32(8))).eval()
        torch.testing.assert_close(net(image), expected)
        assert net.scales == (0.5, 1.0, 2.0)


@pytest.mark.once
def test_the_mean_in_training_holds_no_stack(kernel: str) -> None:
    """The sum, one resized prediction and their place in it, of any number of scales."""
    scales = [k / 8 for k in range(1, 9)]
    given = {k: torch.randn(1, 19, 8 * k, 16 * k, requires_grad=True) for k in range(1, 9)}

    class Given(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return given[image.shape[2] // 8]

    net, image = MultiScale(Given(), scales, "mean").train(), torch.randn(1, 1, 64, 128)
    with afa_kernels.use_backend(kernel):
        assert peak_bytes(lambda: net(image)) <= 3.2 * 19 * 64 * 128 * 4
        out = net(image)
    up = [F.interpolate(p, (64, 128), mode="bilinear") for p in given.values()]
    torch.testing.assert_close(out, torch.stack(up).mean(0))
    out.sum().backward()
    torch.testing.assert_close(sum(p.grad.sum() for p in given.values()), torch.tensor(19.0 * 64 * 128))
    assert torch.equal(given[8], given[8].detach().clone())


@pytest.mark.once
def test_predictions_of_the_network_stay_as_they_are(kernel: str) -> None:
    """At the image's size nothing is resized; what the network keeps must not be written to."""
    kept: list[Tensor] = []

    class Keeping(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            kept.append(image * 2)
            return kept[-1]

    net = MultiScale(Keeping(), (0.5, 1.0), "mean")
    image = torch.randn(1, 3, 8, 8)
    with afa_kernels.use_backend(kernel):
        for mode in (True, False):
            net.train(mode)(image)
    torch.testing.assert_close(kept[1], image * 2)
    torch.testing.assert_close(kept[3], image * 2)


@pytest.mark.once
@pytest.mark.parametrize(
    "act, error, message",
    [
        (lambda: MultiScale(Network(), (1.0, 0.5)), ValueError, "scales must be positive and ascending"),
        (lambda: MultiScale(Network(), 1.0), TypeError, "scales must be a list or tuple of numbers, got float"),
        (
            lambda: MultiScale(Network(), SCALES, fuse="max"),
            ValueError,
            "fuse must be one of 'ssr', 'hma'",
        ),
        (lambda: MultiScale(Network(), SCALES, multiple=(8, 0)), ValueError, "multiple must be at least 1"),
        (lambda: MultiScale(Network(), SCALES, multiple=(8, 8, 8)), TypeError, "multiple must be an integer or a pair"),
        (lambda: MultiScale(Network(), SCALES, multiple=0), ValueError, "multiple must be at least 1, got 0"),
        (lambda: MultiScale(Network(), SCALES, eps=-1), ValueError, "eps must be at least 0, got -1"),
        (lambda: model()(torch.randn(3, 24, 32)), ValueError, "image must have 4 dimensions"),
        (lambda: model()(torch.randn(1, 3, 1, 32)), ValueError, "image of 1 x 32 pixels has none left at scale 0.5"),
        (
            lambda: MultiScale(nn.Conv2d(3, 2, 1), SCALES).eval()(torch.randn(1, 3, 8, 8)),
            TypeError,
            r"network must return a pair \(prediction, logits\), got Tensor",
        ),
        (
            lambda: ScaleSpaceRendering(4)([torch.zeros(1, 2, 4, 4)] * 2, [torch.zeros(1, 4, 4, 4)], (0.5, 1.0)),
            ValueError,
            "features must have one tensor for each of the 2 scales, got 1",
        ),
        (
            lambda: ScaleSpaceRendering(4)([torch.zeros(1, 2, 4, 4)], torch.zeros(1, 4, 4, 4), (1.0,)),
            TypeError,
            "features must be a list or tuple of tensors, got Tensor",
        ),
        (
            lambda: MultiScale(Unfinished(), SCALES).eval()(torch.randn(1, 3, 8, 8)),
            TypeError,
            "logits must be a Tensor, got NoneType",
        ),
        (lambda: model().labels(torch.randn(1, 3, 8, 8), "score"), TypeError, "positional argument"),
        (lambda: model().train().labels(torch.randn(1, 3, 8, 8)), RuntimeError, "labels are of evaluation mode"),
        (
            lambda: ScaleSpaceRendering(4)([torch.zeros(1, 2, 4, 4)], [torch.zeros(1, 4, 4, 4)], (0.5,)),
            ValueError,
            "scales must contain 1.0",
        ),
    ],
)
def test_refusals(act: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        act()


def test_outputs_makes_the_pair_of_whatever_the_network_returns() -> None:
    class Result(nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"out": image.repeat(1, 2, 1, 1), "aux": image, "features": image * 0.5}

    class Pair(Result):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            result = super().forward(image)
            return result["out"], result["features"]

    torch.manual_seed(0)
    head, image = ScaleSpaceRendering(3), torch.randn(2, 3, 16, 20)
    model = MultiScale(Result(), SCALES, head=head, outputs=lambda result: (result["out"], result["features"]))
    for mode in (True, False):
        assert torch.equal(model.train(mode)(image), MultiScale(Pair(), SCALES, head=head).train(mode)(image))
    mean = MultiScale(Result(), SCALES, "mean", outputs=lambda result: result["out"]).eval()
    assert mean(image).shape == (2, 6, 16, 20)
    with pytest.raises(TypeError, match="outputs must be a function of what the network returns, got str"):
        MultiScale(Result(), SCALES, head=head, outputs="out")  # type: ignore[arg-type]


def test_attentive_fusion_projects_and_resizes() -> None:
    from afa_kernels.nn import AttentiveFusion

    torch.manual_seed(0)
    shallow, deep = torch.randn(2, 8, 9, 13), torch.randn(2, 12, 5, 7)
    fuse = AttentiveFusion(8, 12).eval()
    assert fuse.project is not None
    projected = F.interpolate(fuse.project(deep), (9, 13), mode="bilinear")
    plain = AttentiveFusion(8).eval()
    plain.load_state_dict({k: v for k, v in fuse.state_dict().items() if not k.startswith("project")}, strict=True)
    torch.testing.assert_close(fuse(shallow, deep), plain(shallow, projected))
    with pytest.raises(TypeError, match="deep_channels must be an integer, got 'abn'"):
        AttentiveFusion(8, "abn")  # type: ignore[arg-type]


def test_a_head_is_called_where_hooks_are_for_all_modules() -> None:
    called: list[str] = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, *_: called.append(type(m).__name__))
    try:
        model().eval()(torch.randn(1, 3, 16, 16))
    finally:
        handle.remove()
    assert "ScaleSpaceRendering" in called


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd, which keeps the size of a map, got 2"):
        afa_kernels.nn.SpatialAttention(4, kernel_size=2)
