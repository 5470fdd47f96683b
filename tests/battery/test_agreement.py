"""One operation is one list of arguments: in its public function, its dispatcher op, its C++ and its Triton kernels."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch
from support.session import has_kernel

import afa_kernels
from afa_kernels import backends, native_kernels
from afa_kernels.testing import differentiable, operation, operations

pytestmark = pytest.mark.once

# What a dispatcher op knows and its kernel sees in its outputs.
SEEN_IN_OUTPUTS = {"height", "width", "dtype", "size", "channels_last", "backend"}
KERNELS = [
    f"{op}_{way}" for op in operations() for way in (("forward", "backward") if differentiable(op) else ("forward",))
]
# Of every operation: tensors, sizes, whether it trains, class weights. All else is an option, by keyword only.
BY_POSITION = {
    "shallow", "deep", "spatial_logits", "channel_logits", "features", "x", "hidden", "logits", "predictions", "target",
    "attentions", "scales", "size", "weight", "bias", "running_mean", "running_var", "training",
    "conv1_weight", "conv2_weight", "conv_weight", "conv_bias", "project_weight",
}  # fmt: skip


def afa_op(kernel: str) -> torch._ops.OpOverload:
    return getattr(torch.ops.afa, kernel.removesuffix("_forward")).default


@pytest.mark.parametrize("name", KERNELS)
def test_the_names_of_a_kernel(name: str, kernel: str) -> None:
    """The C++ schema has the Triton launcher's arguments: those of the dispatcher op it needs, then what it returns."""
    pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
    stem, way = name.rsplit("_", 1)
    assert has_kernel(kernel, name) == has_kernel("triton", name)
    if not has_kernel(kernel, name):
        assert callable(backends.of_aten(f"{stem}.{way}"))  # what is made of ATen's own kernels
        return
    launcher = getattr(importlib.import_module(f"afa_kernels.triton_kernels.{stem}"), way)
    native = [a.name for a in getattr(torch.ops.afa_native, name).default._schema.arguments]
    assert native == list(inspect.signature(launcher).parameters)
    schema = afa_op(name)._schema
    returned = [r.name for r in schema.returns]
    assert native[len(native) - len(returned) :] == returned
    given = native[: len(native) - len(returned)]
    known = [a.name for a in schema.arguments]
    assert [n for n in known if n in given] == given, "not in the order of the dispatcher op"
    assert set(known) - set(given) <= SEEN_IN_OUTPUTS


@pytest.mark.parametrize("name", KERNELS)
def test_the_types_of_a_kernel(name: str, kernel: str) -> None:
    """What the dispatcher op is given the C++ op takes, and writes to what is returned and to that alone."""
    if not has_kernel(kernel, name):
        return
    schema, native = afa_op(name)._schema, getattr(torch.ops.afa_native, name).default._schema
    known = {a.name: a for a in (*schema.arguments, *schema.returns)}
    returned = {r.name for r in schema.returns}
    for argument in native.arguments:
        theirs = known[argument.name]
        assert str(argument.type) == str(theirs.type), argument.name
        written = argument.alias_info is not None and argument.alias_info.is_write
        in_place = theirs.alias_info is not None and theirs.alias_info.is_write
        assert written == (in_place or argument.name in returned), argument.name


def test_every_native_op_is_a_kernel_of_an_operation(kernel: str) -> None:
    """No schema is left of an operation that is gone."""
    backends._load_library()
    names = {s.name.removeprefix("afa_native::") for s in torch._C._jit_get_all_schemas() if "afa_native::" in s.name}
    sources = Path(native_kernels.__file__).parent.glob("*.py")
    of_parts = {name for path in sources for name in re.findall(r"afa_native\.(\w+)", path.read_text())}
    assert names == {name for name in KERNELS if has_kernel(kernel, name)} | of_parts


@pytest.mark.parametrize("op", [op for op in operations() if hasattr(afa_kernels, op)])
def test_the_public_function(op: str) -> None:
    """Tensors, sizes, `training` and class weights by position or keyword, options by keyword only."""
    assert getattr(afa_kernels, op) is operation(op)
    parameters = inspect.signature(operation(op)).parameters
    positional = {name for name, p in parameters.items() if p.kind == p.POSITIONAL_OR_KEYWORD}
    options = {name for name, p in parameters.items() if p.kind == p.KEYWORD_ONLY}
    assert positional | options == set(parameters)
    assert positional == set(parameters) & BY_POSITION
    assert all(parameters[name].default is not inspect.Parameter.empty for name in options)
    if "training" in parameters:
        assert parameters["training"].default is None  # which is refused where there are running statistics


def test_every_public_function_is_an_operation() -> None:
    functions = {name for name in afa_kernels.__all__ if inspect.isfunction(getattr(afa_kernels, name))}
    tools = {"backend_info", "export_decompositions", "fold", "use_backend", "patch", "warmup"}
    assert functions - tools == {op for op in operations() if hasattr(afa_kernels, op)}


@pytest.mark.parametrize("op", operations())
def test_the_dispatcher_op_knows_its_backend(op: str) -> None:
    """The last argument, so that backward runs on the backend of its forward."""
    for way in ("forward", "backward") if differentiable(op) else ("forward",):
        last = afa_op(f"{op}_{way}")._schema.arguments[-1]
        assert (last.name, str(last.type), last.default_value) == ("backend", "Optional[str]", None)
