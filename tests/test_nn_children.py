"""Modules whose children somebody has hooked, wrapped, replaced or frozen compute what calling these computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import afa_kernels
from afa_kernels.models import AFADLAUp, AFALevelFusion
from afa_kernels.nn import (
    ABN,
    AttentiveFusion,
    ChannelAttention,
    MultiScale,
    ProgressiveFusion,
    ScaleSpaceRendering,
    SpatialAttention,
    fusing,
)

pytestmark = pytest.mark.once


def composed(module: Any, x: Tensor) -> Tensor:
    """The logits, by calling every child."""
    if isinstance(module, SpatialAttention):
        return module.final(module.conv_inner(module.conv(x)))
    of_max = module.conv2(module.conv1(F.adaptive_max_pool2d(x, 1)))
    return of_max + module.conv2(module.conv1(F.adaptive_avg_pool2d(x, 1)))


def attentions(norm: Any = "bn") -> list[nn.Module]:
    torch.manual_seed(0)
    made = [SpatialAttention(4, norm=norm, activation=None), ChannelAttention(4, 8, 4, norm, None)]
    for module in made:
        for part in module.modules():
            if isinstance(part, (nn.BatchNorm2d, ABN)):
                for t in (part.weight, part.bias, part.running_mean):
                    if t is not None:
                        nn.init.normal_(t)
    return [m.double() for m in made]


def agree(module: nn.Module, x: Tensor | None = None) -> None:
    """The outputs, gradients and buffers of two training steps, then of evaluation."""
    x = torch.randn(3, 4, 6, 7, dtype=torch.float64) if x is None else x
    plain = copy.deepcopy(module)
    for call, m in ((module, module), (lambda x: composed(plain, x), plain)):
        for _ in range(2):
            m.zero_grad()
            out = call(x)
            out.square().sum().backward()
        m.results = [out.detach(), *(p.grad for p in m.parameters())]
    torch.testing.assert_close(module.results, plain.results)
    torch.testing.assert_close(list(module.buffers()), list(plain.buffers()))
    training = module.training
    torch.testing.assert_close(module.eval()(x), composed(plain.eval(), x))
    module.train(training)


def leaves(module: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in module.named_modules() if not list(m.children())}


@pytest.mark.parametrize("norm", ["bn", "abn"])
@pytest.mark.parametrize("training", [True, False])
def test_plain_children_fuse(training: bool, norm: str, backend: str) -> None:
    for module in attentions(norm):
        assert module.why_not_fused() is None
        agree(module.train(training))


@pytest.mark.parametrize(
    "register", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"]
)
def test_hooks_of_every_module_inside(register: str, kernel: str) -> None:
    x = torch.randn(2, 4, 5, 6, requires_grad=True)
    for module in (SpatialAttention(4), ChannelAttention(4, 4)):
        for name, part in module.named_modules():
            fired: list[str] = []
            handle = getattr(part, f"register_{register}")(lambda *_, name=name, fired=fired: fired.append(name))
            module(x).sum().backward()
            handle.remove()
            assert fired, name
        assert module.why_not_fused() is None


def test_hook_for_all_modules(kernel: str) -> None:
    model, x = AttentiveFusion(4).eval(), torch.randn(2, 4, 5, 6)
    seen: set[nn.Module] = set()
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.add(m))
    try:
        model(x, x)
        assert model.why_not_fused() == "hooks are registered for all modules"
    finally:
        handle.remove()
    assert seen == set(model.modules())


def test_a_hook_that_changes_the_output(kernel: str) -> None:
    for module in attentions():
        module.eval()
        for name, part in leaves(module).items():
            handle = part.register_forward_hook(lambda m, args, out: out * 0.5)
            x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
            torch.testing.assert_close(module(x), composed(module, x), msg=name)
            handle.remove()


class LoRA(nn.Module):
    """Passes on the attributes of what it wraps."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base, self.more = base, copy.deepcopy(base)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base, name)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * self.more(x)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def with_instance_forward(conv: nn.Conv2d) -> nn.Conv2d:
    conv.forward = lambda x: 2 * nn.Conv2d.forward(conv, x)  # as offloading wrappers do
    return conv


def with_instance_convolution(conv: nn.Conv2d) -> nn.Conv2d:
    conv._conv_forward = lambda x, weight, bias: 2 * F.conv2d(x, weight, bias, padding=conv.padding)
    return conv


def like(conv: nn.Conv2d, **options: Any) -> nn.Conv2d:
    options = {"padding": conv.padding, "bias": False, **options}
    return nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, dtype=torch.float64, **options)


REPLACED: dict[str, Callable[[nn.Conv2d], nn.Module]] = {
    "wrapper": LoRA,
    "subclass": lambda c: Standardised(
        c.in_channels, c.out_channels, c.kernel_size, padding=c.padding, bias=False, dtype=torch.float64
    ),
    "instance forward": with_instance_forward,
    "instance convolution": with_instance_convolution,
    "reflected": lambda c: like(c, padding_mode="reflect"),
    "circular": lambda c: like(c, padding_mode="circular"),
    "same": lambda c: like(c, padding="same"),
    "bias": lambda c: like(c, bias=True),
    "sequential": lambda c: nn.Sequential(c, nn.Hardtanh()),
    "pruned": lambda c: prune.l1_unstructured(c, "weight", 0.5),
    "spectral norm": nn.utils.spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "parametrised": lambda c: parametrize.register_parametrization(c, "weight", Halved()) or c,
}


@pytest.mark.parametrize("kind", REPLACED)
def test_replaced_convolutions(kind: str, backend: str) -> None:
    for module in attentions():
        sequences = [s for s in module.modules() if type(s) is nn.Sequential and isinstance(s[0], nn.Conv2d)]
        for sequence in sequences:
            plain = sequence[0]
            sequence[0] = REPLACED[kind](copy.deepcopy(plain))
            if "norm" in kind or "instance" in kind or kind == "pruned":  # which cannot be copied
                x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
                step = torch.optim.SGD(module.parameters(), 0.01)
                for _ in range(2):
                    step.zero_grad()
                    module.train()(x).square().sum().backward()
                    step.step()
                assert all(p.grad is not None for p in module.parameters() if p is not plain.weight)
                torch.testing.assert_close(module.eval()(x), composed(module, x))
                module.train()
            else:
                agree(module)
            sequence[0] = plain


@pytest.mark.parametrize(
    "options", [{"dilation": 2, "padding": 2}, {"stride": 2}, {"stride": (1, 2)}, {"groups": 4}, {"padding": (0, 1)}]
)
def test_settings_of_the_convolution(options: dict[str, Any], backend: str) -> None:
    """What bn_relu_conv2d takes is fused."""
    module, _ = attentions()
    module.conv_inner[0] = like(module.conv_inner[0], **options)
    assert module.why_not_fused() is None
    agree(module)
    module.final[0] = nn.Conv2d(4, 4, 1, bias=True, dtype=torch.float64, **{"stride": 2, "groups": 2})
    assert module.why_not_fused() is None
    agree(module)


def test_other_layers_in_sequences(backend: str) -> None:
    spatial, channel = attentions()
    spatial.conv_inner[1].append(nn.Hardtanh(-0.1, 0.1))
    channel.conv1[1][1] = nn.LeakyReLU(0.2)
    for module in (spatial, channel):
        agree(module)
    spatial, channel = attentions()
    spatial.final.append(nn.Tanh())
    channel.conv2.insert(0, nn.Tanh())
    for module in (spatial, channel):
        agree(module)
    spatial, channel = attentions("abn")
    spatial.conv[1].append(nn.Tanh())
    channel.conv1.append(nn.Tanh())
    for module in (spatial, channel):
        agree(module)


def test_a_norm_folded_into_its_convolution(backend: str) -> None:
    for module in attentions():
        module.eval()
        layers = [getattr(module, name) for name in ("conv", "conv_inner", "conv1") if hasattr(module, name)]
        x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
        expected = module(x)
        for sequence in layers:
            sequence[0] = nn.utils.fuse_conv_bn_eval(sequence[0], sequence[1][0])
            sequence[1][0] = nn.Identity()
        torch.testing.assert_close(module(x), expected)


def set_on_norms(module: nn.Module, **settings: Any) -> None:
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm2d, ABN)):
            for name, value in settings.items():
                setattr(part, name, value)


@pytest.mark.parametrize(
    "settings, norm",
    [
        ({"track_running_stats": False}, "bn"),  # on the built module: the statistics stay
        ({"momentum": None}, "bn"),
        ({"momentum": 0.7, "eps": 0.1}, "bn"),
        ({"momentum": 1}, "abn"),
        ({"training": False}, "bn"),
        ({"training": False}, "abn"),
        ({"num_batches_tracked": None}, "bn"),
        ({"running_mean": None, "running_var": None}, "bn"),
        ({}, lambda channels: nn.BatchNorm2d(channels, track_running_stats=False)),
        ({}, lambda channels: nn.BatchNorm2d(channels, affine=False)),
        ({}, lambda channels: nn.BatchNorm2d(channels, momentum=None)),
        ({}, nn.InstanceNorm2d),
        ({}, lambda channels: nn.GroupNorm(1, channels)),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_settings_of_the_norm(settings: dict[str, Any], norm: Any, training: bool, backend: str) -> None:
    for module in attentions(norm):
        if norm is nn.InstanceNorm2d and isinstance(module, ChannelAttention):
            continue  # of one pixel
        module.train(training)
        set_on_norms(module, **settings)
        agree(module)


@pytest.mark.parametrize("frozen", ["norms", "convolutions", "one"])
def test_frozen_parameters(frozen: str, backend: str) -> None:
    for module in attentions():
        for name, part in leaves(module).items():
            if frozen == "one" and not name.startswith("conv_inner"):
                continue
            if frozen == "one" or isinstance(part, nn.BatchNorm2d if frozen == "norms" else nn.Conv2d):
                part.requires_grad_(False)
        agree(module)


FUSIONS: list[tuple[Callable[[], nn.Module], Callable[[], list[Any]]]] = [
    (lambda: AttentiveFusion(4), lambda: [features(4), features(4)]),
    (lambda: ProgressiveFusion(4), lambda: [[features(4), features(4), features(4)]]),
    (lambda: AFADLAUp([4, 8], [1, 2]), lambda: [[features(4), features(8, 3)]]),
    (lambda: AFALevelFusion([8, 4]), lambda: [[features(8, 3), features(4)]]),
]


def features(channels: int, side: int = 6) -> Tensor:
    return torch.randn(2, channels, side, side, dtype=torch.float64)


@pytest.mark.parametrize("make, inputs", FUSIONS)
@pytest.mark.parametrize("training", [True, False])
def test_attention_maps_by_hook(
    make: Callable[[], nn.Module], inputs: Callable[[], list[Any]], training: bool, kernel: str
) -> None:
    """A hook on an attention module sees the attention, and changes no output, gradient or buffer."""
    torch.manual_seed(0)
    model, given = make().double().train(training), inputs()
    hooked, seen = copy.deepcopy(model), {}
    modules = {n: m for n, m in hooked.named_modules() if isinstance(m, (SpatialAttention, ChannelAttention))}
    for name, m in modules.items():
        m.register_forward_hook(lambda m, args, out, name=name: seen.__setitem__(name, out))
    results = []
    for m in (model, hooked):
        out = m(*given)
        out = out[-1] if isinstance(out, list) else out
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad for p in m.parameters()), *m.buffers()])
    torch.testing.assert_close(*results)
    assert seen.keys() == modules.keys()
    assert all(a.min() > 0 and a.max() < 1 for a in seen.values())


def test_a_hook_that_changes_the_attention(kernel: str) -> None:
    model, (x, y) = AttentiveFusion(4).double().eval(), (features(4), features(4))
    model.sa.register_forward_hook(lambda m, args, out: torch.ones_like(out))
    model.ca.register_forward_hook(lambda m, args, out: torch.zeros_like(out))
    torch.testing.assert_close(model(x, y), x)


class Pair(SpatialAttention):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(x) + 3
        return logits.sigmoid(), logits


def test_other_attention_modules(kernel: str) -> None:
    model, (x, y) = AttentiveFusion(4).double().eval(), (features(4), features(4))
    for sa in (Pair(4), nn.Sequential(nn.Conv2d(4, 1, 1), nn.Sigmoid()), SpatialAttention(4, activation="relu")):
        model.sa = sa.double().eval()
        a, b = model.sa(x), model.ca(y)
        a = a[0] if isinstance(a, tuple) else a
        torch.testing.assert_close(model(x, y), a * (1 - b) * x + (1 - a) * b * y)
    model.sa = SpatialAttention(4, activation=None).double().eval()
    a = model.sa(x).sigmoid()
    torch.testing.assert_close(model(x, y), a * (1 - b) * x + (1 - a) * b * y)
    model.sa.forward = lambda x: torch.zeros_like(x[:, :1])  # logits, as without an activation
    torch.testing.assert_close(model(x, y), 0.5 * (1 - b) * x + 0.5 * b * y)


def test_halves_keep_their_type_when_called(kernel: str) -> None:
    model, x = AttentiveFusion(4).bfloat16().eval(), features(4).bfloat16()
    plain = model(x, x)
    model.sa.register_forward_hook(lambda *_: None)
    hooked = model(x, x)
    assert hooked.dtype == torch.bfloat16
    torch.testing.assert_close(hooked, plain, rtol=2e-2, atol=2e-2)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self.body(x).relu()
        return self.out(f), f


@pytest.mark.parametrize("fuse", ["ssr", "hma"])
def test_hooks_of_the_head(fuse: str, kernel: str) -> None:
    model, image, seen = (
        MultiScale(Network(), (0.5, 1.0), fuse, ScaleSpaceRendering(4)).eval(),
        torch.randn(1, 3, 16, 20),
        [],
    )
    expected = model(image)
    handle = model.head.register_forward_hook(lambda m, args, out: seen.append(out))
    torch.testing.assert_close(model(image), expected)
    assert [y.shape[1] for y in seen] == [1, 1]
    handle.remove()
    model.head.register_forward_hook(lambda m, args, out: out + 1)
    assert not torch.equal(model(image), expected)
    model.head = SpatialAttention(4).eval()
    model(image)
    model.head.register_forward_hook(lambda m, args, out: None)
    with pytest.raises(ValueError, match=r"head must have activation=None, .* got 'sigmoid'"):
        model(image)


def test_fusing_says_which_and_why() -> None:
    model = nn.Sequential(AttentiveFusion(4), AttentiveFusion(4, norm=nn.SyncBatchNorm))
    assert fusing(model[0]) == {"": None, "sa": None, "ca": None}
    assert fusing(model[1])["ca"] == "conv1.1.0 is a SyncBatchNorm, not exactly a BatchNorm2d or ABN"
    model[0].sa.conv_inner[1][0].register_forward_hook(lambda *_: None)
    assert fusing(model)["0.sa"] == "conv_inner.1.0 has hooks"
    model[0].ca.conv2[0] = nn.Conv2d(4, 4, 1)
    assert "conv2.0 is more than a matrix" in fusing(model)["0.ca"]
    model[0].sa.register_forward_hook(lambda *_: None)
    assert fusing(model)["0"] == "sa has hooks"


def test_subclasses_of_tensors_are_left_to_the_children(kernel: str) -> None:
    """Of parameters, as quantised and distributed ones are, and of the input."""

    class Logged(Tensor):
        pass

    for module in attentions():
        module.eval()
        x = features(4)
        expected = composed(module, x)
        torch.testing.assert_close(Tensor(module(x.as_subclass(Logged))), expected)
        inner = module.conv_inner[0] if isinstance(module, SpatialAttention) else module.conv2[0]
        inner.weight = nn.Parameter(inner.weight.detach().as_subclass(Logged))
        assert module.why_not_fused().endswith("has a weight of type Logged")
        with afa_kernels.use_backend(kernel):
            torch.testing.assert_close(Tensor(module(x)), expected)


def test_a_child_compiled_by_itself_is_called(kernel: str) -> None:
    torch.compiler.reset()
    model, (x, y), calls = AttentiveFusion(4).double().eval(), (features(4), features(4)), []
    expected = model(x, y)

    def counting(graph: Any, inputs: Any) -> Any:
        calls.append(graph)
        return graph

    for child in (model.ca, model.sa):
        child.compile(backend=counting)
        torch.testing.assert_close(model(x, y), expected)
        assert calls
        calls.clear()
    assert fusing(model)[""] == "sa is compiled by itself"


def test_converted_norms(kernel: str) -> None:
    model, (x, y) = AttentiveFusion(4).double().eval(), (features(4), features(4))
    expected = model(x, y)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    torch.testing.assert_close(model(x, y), expected)
    assert "SyncBatchNorm" in fusing(model)["sa"]


def test_functional_call(kernel: str) -> None:
    """Parameters and buffers from elsewhere take part, as in torch.func."""
    model, (x, y) = AttentiveFusion(4).double(), (features(4), features(4))
    state = {name: torch.randn_like(t).abs() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    other = copy.deepcopy(model)
    other.load_state_dict(state)
    torch.testing.assert_close(torch.func.functional_call(model, state, (x, y)), other(x, y))
    torch.testing.assert_close(state, dict(other.state_dict()))


def test_only_one_child_trains(backend: str) -> None:
    for module in attentions():
        module.eval()
        next(part for part in module.modules() if isinstance(part, nn.BatchNorm2d)).train()
        agree(module)


def test_an_ensemble_by_vmap() -> None:
    """torch.func's way to train several networks at once: every one's running statistics, and its counts."""
    networks = [AttentiveFusion(8) for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(networks)  # type: ignore[arg-type]
    alone, x = copy.deepcopy(networks), torch.randn(3, 8, 6, 6)

    def call(parameters: Any, buffers: Any) -> Tensor:
        return torch.func.functional_call(networks[0], (parameters, buffers), (x, x))

    torch.testing.assert_close(torch.func.vmap(call)(parameters, buffers), torch.stack([net(x, x) for net in alone]))
    for name, of_all in buffers.items():
        torch.testing.assert_close(of_all, torch.stack([net.get_buffer(name) for net in alone]))


def test_a_norm_that_stands_twice_counts_twice(kernel: str) -> None:
    model = SpatialAttention(8)
    model.conv_inner[1][0] = model.conv[1][0]  # type: ignore[index]
    with afa_kernels.use_backend(kernel):
        model(torch.randn(2, 8, 6, 6))
    assert int(model.conv[1][0].num_batches_tracked) == 2  # type: ignore[index]
