"""Compile Triton kernels before they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only


def warmup(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> int:
    """Compile the Triton kernels that `function(*arguments, **keywords)` and its backward pass will launch.

    So that nothing compiles in the first step of a training or inside a captured graph. `function` is an operation of
    afa_kernels, a module, or any function of tensors; it runs once on fake tensors, which changes neither its
    parameters nor its buffers. Then each of its operations is prepared on memory of its own, one at a time. Gradients
    are prepared for the arguments and parameters that require one, if gradients are enabled. Where `function` reads a
    number out of a tensor, it gets the number if the tensor has no dimensions, else 1 or False. Call it for every
    combination of shapes (sizes that 16 divides and others), element types and memory formats that will come.

    PyTorch's own kernels, of a convolution, that of `bn_relu_conv2d` too, are not prepared: the libraries they call set
    themselves up in their first call, which must not be inside a CUDA graph. Before one is captured, run `function` and
    its backward pass a few times on a side stream, as PyTorch asks for.

    Returns the number of launches prepared: 0 where no Triton kernel would run, as for CPU tensors.

    >>> import torch, afa_kernels
    >>> x = torch.empty(1, 8, 4, 4)
    >>> afa_kernels.warmup(afa_kernels.attentive_fusion, x, x, x[:, :1], x[..., :1, :1])
    0
    """
    prepared = 0
    for op, args in _calls(function, arguments, keywords):
        prepared += _prepare(op, args)
    return prepared


class _Calls(TorchDispatchMode):
    """The operations of afa_kernels called inside, with fake tensors as arguments; and what is read of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "afa":
            self.found.append((function, args))
        if function is torch.ops.aten._local_scalar_dense.default:
            with _disable_current_modes():
                x = args[0] if type(args[0]) is Tensor else torch.tensor(args[0].dtype != torch.bool).to(args[0].dtype)
                return x.item()
        return function(*args, **(kwargs or {}))


def _calls(
    function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> list[tuple[Any, tuple[Any, ...]]]:
    from torch._subclasses.fake_tensor import FakeTensorMode  # not at import: it brings much of the compiler along

    fake, calls = FakeTensorMode(allow_non_fake_inputs=True), _Calls()

    def stand_in(x: Tensor) -> Tensor:
        return fake.from_tensor(x) if x.dim() > 0 or x.requires_grad else x.clone()

    arguments, keywords = tree_map_only(Tensor, stand_in, (arguments, keywords))
    state: dict[str, Tensor] = {}
    if isinstance(function, torch.nn.Module):
        module, state = function, {**dict(function.named_parameters()), **dict(function.named_buffers())}
        state = tree_map_only(Tensor, stand_in, state)

        def function(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(module, state, args, kwargs)

    leaves = [t for t in tree_leaves((arguments, keywords, state)) if isinstance(t, Tensor) and t.requires_grad]
    with fake, calls:
        results = function(*arguments, **keywords)
        outputs = [t for t in tree_leaves(results) if isinstance(t, Tensor) and t.requires_grad]
        if outputs and leaves:
            torch.autograd.grad(outputs, leaves, [torch.empty_like(o) for o in outputs], allow_unused=True)
    return calls.found


def _prepare(op: Any, args: tuple[Any, ...]) -> int:
    from afa_kernels import backends

    stem = op._schema.name.removeprefix("afa::").removesuffix("_backward")
    given = dict(zip((argument.name for argument in op._schema.arguments), args))
    devices = {t.device.type for t in tree_leaves(args) if isinstance(t, Tensor)}
    if not all(backends.on_triton(stem, device, given.get("backend")) for device in devices):
        return 0
    from afa_kernels.triton_kernels._launch import Launch, hooked

    made = 0

    def prepare(launch: Launch) -> None:
        nonlocal made
        launch.compile()
        made += 1

    def unfilled(x: Tensor) -> Tensor:
        memory = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
        return memory if x.is_floating_point() else memory.zero_()  # a class, for a check that looks

    with torch.no_grad(), hooked(prepare):
        op(*tree_map_only(Tensor, unfilled, args))
    return made
