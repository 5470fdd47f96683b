"""What Python never gives them: kernels called directly with sizes that do not match raise before they read."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support.parts import FIRST, once, over
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import afa_kernels
from afa_kernels import backends
from afa_kernels.testing import Case, both_passes, differentiable, operations, tensors

pytestmark = pytest.mark.usefixtures("poisoned")

# The axes, from the first on, of what is resized to any size that something else tells.
TOLD = {"resized_cross_entropy": {"logits": 1}, "resized_labels": {"logits": 1, "labels": 1}}
# Maps whose height and width nothing else tells: of what is resized, and of what is pooled.
OF_ANY_SIZE = {
    "global_avg_max_pool": ("x", "grad_x"),
    "upsampled_pool": ("deep",),
    "resized_fusion": ("features",),
    **{
        op: ("predictions", "logits", "attentions", "prediction", "weight", "out", "grad")
        for op in operations()
        if op.startswith(("scale_space", "hierarchical")) and op != "scale_space_weights"
    },
}


def shrunk(x: Tensor, axis: int) -> Tensor:
    """`x` without its last along the axis. Its memory stays, so that a kernel that does not look reads no other's."""
    return x.narrow(axis, 0, x.shape[axis] - 1)


def wrong(stem: str, arguments: Sequence[Any], args: Sequence[Any], outputs: bool) -> list[tuple[str, list[Any]]]:
    """The arguments with one tensor smaller along one axis, or a list with one less, and what is wrong."""
    found = []
    for i, (of_schema, argument) in enumerate(zip(arguments, args)):
        name = of_schema.name
        if of_schema.alias_info is not None and not outputs:
            continue
        parts = argument if isinstance(argument, list) and argument and isinstance(argument[0], Tensor) else [argument]
        is_list = parts is argument
        if is_list and len(parts) > 1:
            found.append((f"one less of {name}", [*args[:i], parts[:-1], *args[i + 1 :]]))
        for k, x in enumerate(parts):
            if not isinstance(x, Tensor):
                continue
            free = name in OF_ANY_SIZE.get(stem, ()) and x.dim() == 4
            told = TOLD.get(stem, {}).get(name, 2 if free else x.dim())
            for axis in range(told):
                new = [*parts[:k], shrunk(x, axis), *parts[k + 1 :]]
                found.append((f"axis {axis} of {name}", [*args[:i], new if is_list else new[0], *args[i + 1 :]]))
    return found


@over(FIRST)
def test_native_ops_check_sizes(case: Case, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := backends._load_library()) is not None:  # whose schemas tell what is filled
        pytest.skip(reason)
    calls: list[tuple[str, tuple[Any, ...]]] = []
    launcher = backends.launcher

    def recording(op: str, device_type: str, backend: str | None) -> Callable[..., None]:
        def launch(*args: Any) -> None:
            calls.append((op, args))
            launcher(op, device_type, backend)(*args)

        return launch

    monkeypatch.setattr(backends, "launcher", recording)
    arguments = case.inputs(torch.float32)
    wanted = [differentiable(case.op)] * len(tensors(arguments))
    both_passes(lambda a: case.outputs(a, kernel), arguments, wanted=wanted)
    arguments_device = tensors(arguments)[0].device.type
    accepted = []
    for name, args in calls:
        native = getattr(torch.ops.afa_native, name).default
        # What a Triton launcher fills is made by the dispatcher op, of what it was given: it cannot be wrong.
        launch = native if kernel == "cpu" else launcher(name, arguments_device, kernel)
        for what, changed in wrong(name.rsplit("_", 1)[0], native._schema.arguments, args, outputs=kernel == "cpu"):
            try:
                launch(*changed)
            except (RuntimeError, ValueError):
                continue
            accepted.append(f"{name}: {what}")
    assert not accepted


class Recorded(TorchDispatchMode):
    """The calls of native ops, inside the dispatcher ops too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "afa":
            with self:
                return function.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **(kwargs or {}))
        if function.namespace == "afa_native":
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))


@once
@over([case for case in FIRST if importlib.util.find_spec(f"afa_kernels.native_kernels.{case.op}")])
def test_native_parts_check_sizes(case: Case, kernel: str) -> None:
    """The same of the ops that are parts of one that is made of ATen's kernels."""
    if backends.parts(case.op, "cpu", kernel) is None:
        pytest.skip(f"{kernel} has no parts of it")
    arguments = case.inputs(torch.float32)
    with Recorded() as recorded:
        both_passes(lambda a: case.outputs(a, kernel), arguments, wanted=[True] * len(tensors(arguments)))
    others = tuple(f"afa_native::{other.op}_" for other in FIRST if other.op != case.op)  # whose sizes are above
    calls = [(native, args) for native, args in recorded.calls if not native.name().startswith(others)]
    accepted = []
    for native, args in calls:
        for what, changed in wrong(case.op, native._schema.arguments, args, outputs=True):
            try:
                native(*changed)
            except RuntimeError:
                continue
            accepted.append(f"{native.name()}: {what}")
    # Nothing else tells the size of what statistics are taken of, but for its channels.
    free = [f"afa_native::bn_relu_statistics: axis {axis} of hidden" for axis in (0, 2)]
    assert calls and set(accepted) <= set(free)


def test_a_dispatcher_op_called_directly(kernel: str) -> None:
    """It makes the same checks as its kernel."""
    case = next(case for case in FIRST if case.op == "attentive_fusion")
    arguments = list(case.inputs(torch.float32))
    for i, axis in ((1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 3), (3, 0), (3, 1)):
        changed = [shrunk(x, axis).clone() if j == i else x for j, x in enumerate(arguments)]
        with (
            pytest.raises((RuntimeError, ValueError), match=r"must have (the )?shape"),
            afa_kernels.use_backend(kernel),
        ):
            torch.ops.afa.attentive_fusion(*changed)


@once
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("index", [15, 10**12, -1])
def test_an_index_that_leads_elsewhere(index: int, memory_format: torch.memory_format, kernel: str) -> None:
    """The gradient of the pooling is written through it."""
    if kernel != "cpu":
        pytest.skip("the C++ library's")
    backends._load_library()
    grad_x = torch.zeros(1, 2, 3, 5).contiguous(memory_format=memory_format)
    places = torch.zeros(1, 2, dtype=torch.int64)
    places[0, 1] = index
    with pytest.raises(RuntimeError, match="index"):
        torch.ops.afa_native.global_avg_max_pool_backward(
            torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 1), places, grad_x
        )
