"""patch, on stand-ins with the structure, the names and the return values of the official modules."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import afa_kernels
from afa_kernels.nn.aggregation import upsampling

pytestmark = pytest.mark.once


class InPlaceABNSync(nn.BatchNorm2d):
    """By name and attributes as the norm of released checkpoints, in plain PyTorch."""

    activation, activation_param = "leaky_relu", 0.01

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        del self.num_batches_tracked

    def forward(self, x: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        gamma = self.weight.abs() + self.eps
        y = F.batch_norm(x, *statistics, gamma, self.bias, self.training, self.momentum, self.eps)
        return F.leaky_relu(y, self.activation_param)


def layer(inputs: int, outputs: int, kernel: int, abn: bool) -> nn.Sequential:
    norm = [InPlaceABNSync(outputs)] if abn else [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.Sequential(*norm))


class Spatial(nn.Module):
    def __init__(self, channels: int, abn: bool, activation: str = "sigmoid") -> None:
        super().__init__()
        self.activation = activation
        self.conv, self.conv_inner = (layer(channels, channels, 3, abn) for _ in range(2))
        self.final = nn.Sequential(nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        logits = self.final(self.conv_inner(self.conv(x)))
        return (None, logits.abs()) if self.activation == "abs" else (logits.sigmoid(), logits)


class Channel(nn.Module):
    def __init__(self, channels: int, abn: bool) -> None:
        super().__init__()
        self.conv1 = layer(channels, channels // 8, 1, abn)
        self.conv2 = nn.Sequential(nn.Conv2d(channels // 8, channels, 1, bias=False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        of_max = self.conv1(F.adaptive_max_pool2d(x, 1))
        logits = self.conv2(of_max) + self.conv2(self.conv1(F.adaptive_avg_pool2d(x, 1)))
        return logits.sigmoid(), logits


class IDAUp(nn.Module):
    def __init__(self, abn: bool) -> None:
        super().__init__()
        self.proj_0, self.up_0, self.proj_1, self.up_1 = (
            nn.Identity(), nn.Identity(), layer(24, 16, 1, abn), upsampling(16, 2)
        )  # fmt: skip
        self.sa_1, self.ca_1 = Spatial(16, abn), Channel(16, abn)

    def forward(self, layers: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        shallow, deep = layers[0], self.up_1(self.proj_1(layers[1]))
        (a, _), (b, _) = self.sa_1(shallow), self.ca_1(deep)
        x = a * (1 - b) * shallow + (1 - a) * b * deep
        return x, [x]


class Trunk(nn.Module):
    def __init__(self, abn: bool) -> None:
        super().__init__()
        self.ida = IDAUp(abn)
        self.level_sa, self.level_ca, self.proj_1 = Spatial(16, abn), Channel(16, abn), layer(24, 16, 1, abn)
        self.scale_attention = Spatial(16, abn, "abs")

    def final_feature_fusion(self, layers: Sequence[Tensor]) -> Tensor:
        up = F.interpolate(self.proj_1(layers[0]), size=layers[1].shape[2:], mode="bilinear")
        out: Any = 0
        for x in (up, layers[1]):
            (a, _), (b, _) = self.level_sa(x), self.level_ca(x)
            out = a * b * x + (1 - a) * (1 - b) * out
        return out

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        x, every = self.ida([shallow, deep])
        assert every[-1] is x
        fused = self.final_feature_fusion([deep, x])
        nothing, logits = self.scale_attention(fused)
        assert nothing is None
        return fused * logits


REPLACED = [
    "ida.sa_1", "ida.ca_1", "ida", "level_sa", "level_ca", "scale_attention", "final_feature_fusion",
]  # fmt: skip


def results(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shallow, deep = torch.randn(3, 16, 8, 12).double(), torch.randn(3, 24, 4, 6).double()
    model.zero_grad()
    out = model(shallow, deep)
    out.square().sum().backward()
    grads = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return {"out": out.detach(), **grads, **{n: b.clone() for n, b in model.named_buffers()}}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("abn", [False, True])
def test_same_outputs_and_gradients(abn: bool, training: bool, backend: str) -> None:
    torch.manual_seed(1)
    model = Trunk(abn).double().train(training)
    expected = results(copy.deepcopy(model))
    parameters = dict(model.named_parameters())
    keys = list(model.state_dict())
    done = afa_kernels.patch(model)
    assert sorted(done.replaced) == sorted(REPLACED) and done.skipped == []
    assert dict(model.named_parameters()) == parameters, "the parameters are not the same objects"
    assert sorted(model.state_dict()) == sorted(keys)
    with afa_kernels.use_backend(backend):
        got = results(model)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, msg=lambda m, name=name: f"{name}: {m}")


def test_undone(kernel: str) -> None:
    model = Trunk(abn=True).double()
    before, expected = {name: dict(vars(m)) for name, m in model.named_modules()}, results(model)
    with afa_kernels.use_backend("reference"):
        expected = results(copy.deepcopy(model))
    done = afa_kernels.patch(model)
    assert {name: dict(vars(m)) for name, m in model.named_modules()} != before
    torch.testing.assert_close(results(copy.deepcopy(model)), expected)
    done.undo()
    assert {name: dict(vars(m)) for name, m in model.named_modules()} == before
    assert done.replaced == done.skipped == []
    torch.testing.assert_close(results(model), expected)


def test_twice_replaces_nothing_more() -> None:
    model = Trunk(abn=False)
    assert afa_kernels.patch(model).replaced
    assert afa_kernels.patch(model).replaced == []


def test_leaves_others_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), InPlaceABNSync(8))
    before = list(model.modules())
    assert afa_kernels.patch(model).replaced == [] and list(model.modules()) == before


def test_no_module() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got dict"):
        afa_kernels.patch({})


def test_everything_of_the_module_stays(kernel: str) -> None:
    """Its class, hooks, attributes, methods, frozen parameters, and what is set, hooked or learned in between."""
    torch.manual_seed(0)
    model, seen = Trunk(abn=False).double(), []
    sa = model.ida.sa_1
    sa.note = "ours"
    sa.register_forward_hook(lambda m, args, out: seen.append("forward"))
    sa.register_full_backward_hook(lambda m, grads, outs: seen.append("backward"))
    sa.final.requires_grad_(False)
    before, keys = results(copy.deepcopy(model)), list(model.state_dict())
    expected = sorted(seen)
    seen.clear()
    done = afa_kernels.patch(model)
    assert model.ida.sa_1 is sa and type(sa) is Spatial and sa.note == "ours"
    after = results(model)
    torch.testing.assert_close(after, before)
    assert sorted(seen) == expected and list(model.state_dict()) == keys
    assert not sa.final[0].weight.requires_grad
    sa.register_forward_pre_hook(lambda m, args: seen.append("pre"))
    results(model)
    assert "pre" in seen
    model.eval()
    done.undo()
    seen.clear()
    results(model)
    assert not sa.training and "pre" in seen


class Tempered(Spatial):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.temperature = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        logits = super().forward(x)[1] * self.temperature
        return logits.sigmoid(), logits


class Fixed(Spatial):
    """A temperature that is no parameter."""

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        logits = super().forward(x)[1] * 1.5
        return logits.sigmoid(), logits


class Clamped(Spatial):
    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        logits = super().forward(x)[1].clamp(-5, 5)
        return logits.sigmoid(), logits


class Dropped(Spatial):
    """Differs in training alone."""

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        return super().forward(F.dropout(x, 0.5, self.training))


class Alone(Spatial):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0]


class Swapped(Spatial):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        return super().forward(x)[::-1]


class Buffered(Spatial):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_buffer("steps", torch.zeros(()))


class Wider(Spatial):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.more = nn.Conv2d(1, 1, 1)


class Raising(Spatial):
    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        assert x.shape[-1] > 1000
        return super().forward(x)


class Residual(nn.Module):
    def __init__(self, channels: int, abn: bool, kernel: int = 3) -> None:
        super().__init__()
        self.conv1, self.conv2 = layer(channels, channels, kernel, abn), layer(channels, channels, kernel, abn)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class Gate(Channel):
    """Of the very structure of channel attention."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x * self.conv2(self.conv1(x.mean((2, 3), keepdim=True))).sigmoid()


class MaxFirst(Channel):
    """Takes the norm's statistics of the mean first, so that the running ones end elsewhere."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        logits = sum(self.conv2(self.conv1(p)) for p in pooled)
        return logits.sigmoid(), logits


class Unpadded(Spatial):
    """Structure and forward are the official ones; padding is reflected."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.conv_inner[0].padding_mode = "reflect"
        self.conv_inner[0]._reversed_padding_repeated_twice = [1, 1, 1, 1]


class Plain(InPlaceABNSync):
    """By name InPlaceABN's, but gamma = weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(F.batch_norm(x, None, None, self.weight, self.bias, True), 0.01)


def with_plain_abn(channels: int, abn: bool) -> nn.Module:
    Plain.__name__ = "ABN"
    module = Spatial(channels, False)
    for convolution in (module.conv, module.conv_inner):
        convolution[1] = nn.Sequential(Plain(channels))
    return module


def with_another_activation(channels: int, abn: bool) -> nn.Module:
    module = Spatial(channels, True)
    module.conv[1][0].activation = "elu"
    return module


def with_a_hooked_child(channels: int, abn: bool) -> nn.Module:
    module = Spatial(channels, False)
    module.conv_inner[0].register_forward_hook(lambda m, args, out: 2 * out)
    return module


def with_a_forward_of_its_own(channels: int, abn: bool) -> nn.Module:
    module = Spatial(channels, False)
    module.forward = lambda x: (x, x)
    return module


def without_values(channels: int, abn: bool) -> nn.Module:
    return Spatial(channels, False).to("meta")


VARIANTS = {
    Tempered: "parameters or buffers of its own: temperature",
    Buffered: "parameters or buffers of its own: steps",
    Wider: r"has the children \['conv', 'conv_inner', 'final', 'more'\]",
    Fixed: "another than the official code's: an output of shape .* is off by",
    Clamped: "another than the official code's: an output .* is off by",
    Dropped: "another than the official code's",
    Alone: "it returns Tensor, not tuple",
    Swapped: "is off by",
    Raising: "cannot be compared with the official code's: AssertionError",
    Residual: r"conv2 has 2 layers, not 1",
    Gate: "it returns Tensor, not tuple",
    MaxFirst: "is off by",
    Unpadded: "conv_inner.0 has padding=.*reflect",
    with_plain_abn: "is off by",
    with_another_activation: "conv.1.0 has the activation elu",
    with_a_hooked_child: "conv_inner.0 has hooks",
    with_a_forward_of_its_own: "has a forward of its own",
    without_values: "has tensors without values",
}


@pytest.mark.parametrize("kind", VARIANTS, ids=lambda kind: kind.__name__)
def test_variants_are_left_alone(kind: Any) -> None:
    model = nn.Sequential(kind(8, False))
    before = {name: dict(vars(m)) for name, m in model.named_modules()}
    state = torch.get_rng_state()
    done = afa_kernels.patch(model)
    assert done.replaced == [] and [name for name, _ in done.skipped] == ["0"]
    assert re.search(VARIANTS[kind], done.skipped[0][1]), done.skipped
    assert {name: dict(vars(m)) for name, m in model.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), state)


def test_an_up_path_of_variants_is_left_alone() -> None:
    model = Trunk(abn=False)
    model.ida.sa_1 = Tempered(16, False)
    done = afa_kernels.patch(model)
    assert dict(done.skipped).keys() == {"ida", "ida.sa_1"} and "ida.ca_1" in done.replaced
    assert dict(done.skipped)["ida"] == "sa_1 is not the official module"
    model = Trunk(abn=False)
    model.final_feature_fusion = lambda layers: layers[-1]
    done = afa_kernels.patch(model)
    assert (
        "it returns" in dict(done.skipped)["final_feature_fusion"]
        or "off" in dict(done.skipped)["final_feature_fusion"]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_models_of_every_type(dtype: torch.dtype) -> None:
    assert sorted(afa_kernels.patch(Trunk(abn=False).to(dtype)).replaced) == sorted(REPLACED)


def test_zero_weights_hide_nothing() -> None:
    """The comparison has weights of its own."""
    model = nn.Sequential(Fixed(8, False))
    nn.init.zeros_(model[0].final[0].weight)
    assert afa_kernels.patch(model).replaced == []


def test_the_model_itself(kernel: str) -> None:
    model, x = Spatial(8, False).eval(), torch.randn(2, 8, 5, 6)
    expected = model(x)
    assert afa_kernels.patch(model).replaced == [""]
    torch.testing.assert_close(model(x), expected)


def test_check() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Spatial(8, False)).train()
    model[0].eval()
    buffers = [b.clone() for b in model.buffers()]
    assert afa_kernels.patch(model, check=torch.randn(2, 3, 5, 6)).replaced == ["1"]
    assert model.training and model[1].training and not model[0].training
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers()))

    class Large(Spatial):
        """Differs on large images alone."""

        def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
            return super().forward(x * (2 if x.shape[-1] > 100 else 1))

    model = nn.Sequential(Large(8, False))
    with pytest.raises(ValueError, match=r"outputs on check differ after replacing 0: .* off by .* all was put back"):
        afa_kernels.patch(model, check=(torch.randn(2, 8, 5, 128),))
    assert "forward" not in vars(model[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("abn", [False, True])
def test_copied_pickled_compiled_and_traced(abn: bool, kernel: str) -> None:
    torch.manual_seed(0)
    model = Trunk(abn).eval()
    shallow, deep = torch.randn(3, 16, 8, 12), torch.randn(3, 24, 4, 6)
    expected = model(shallow, deep)
    afa_kernels.patch(model)
    again = copy.deepcopy(model)
    assert again.ida.forward.module is again.ida
    for other in (
        again,
        pickle.loads(pickle.dumps(model)),
        torch.compile(model, fullgraph=True, backend="aot_eager"),
        torch.export.export(model, (shallow, deep), strict=True).module(),
        torch.export.export(model, (shallow, deep), strict=False).module(),
        torch.jit.trace(model, (shallow, deep)),
        torch.fx.symbolic_trace(model),
    ):
        torch.testing.assert_close(other(shallow, deep), expected, rtol=1e-4, atol=1e-5)


def test_statistics_over_processes_stay_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Spatial(8, True)
    assert afa_kernels.patch(model).replaced == [""]
    assert model.forward.why_not_fused() is None
    monkeypatch.setattr("afa_kernels.nn.norm._processes", lambda: 2)
    assert model.forward.why_not_fused() == "conv.1.0 takes its statistics over several processes"
    assert model.eval().forward.why_not_fused() is None


def test_a_scripted_module_is_left_alone() -> None:
    assert afa_kernels.patch(nn.Sequential(torch.jit.script(nn.ReLU()))).replaced == []


class Classifying(nn.Module):
    """The official attention, and what `outputs` makes of its result."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self.sa, self.outputs = Spatial(4, abn=False), outputs

    def forward(self, x: Tensor) -> Any:
        return self.outputs(self.sa(x)[0])


@pytest.mark.parametrize("outputs", [lambda y: y > 0.5, lambda y: (1000 * y).long()])
def test_outputs_that_are_whole_numbers_are_compared_exactly(outputs: Any) -> None:
    """A map of labels whose every label is one off is not within 3 % of a large one."""
    model, x = Classifying(outputs).eval(), torch.randn(2, 4, 5, 6)
    patched = afa_kernels.patch(model, check=x) if outputs(torch.ones(1)).dtype == torch.bool else None
    assert patched is None or patched.replaced == ["sa"]
    calls = iter(range(100))
    off = Classifying(lambda y: (100 * torch.ones_like(y)).long() + next(calls)).eval()
    with pytest.raises(ValueError, match=r"(\d+) of \1 values of an output of shape .* differ"):
        afa_kernels.patch(off, check=x)
    assert "forward" not in off.sa.__dict__


def test_a_check_that_raises_leaves_the_model_as_it_was() -> None:
    calls = iter((lambda y: y, None))
    model = Classifying(lambda y: next(calls)(y)).eval()  # type: ignore[misc]
    with pytest.raises(TypeError, match="NoneType"):
        afa_kernels.patch(model, check=torch.randn(2, 4, 5, 6))
    assert "forward" not in model.sa.__dict__
