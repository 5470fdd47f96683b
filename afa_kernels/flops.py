"""The convolutions inside the operations, for torch.utils.flop_counter: counted as those of the layers they replace.

`FlopCounterMode` takes an operation that it has no formula of for free. Importing it brings Triton along, so that the
formulas are registered when it is imported, by whomever.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

import torch

_COUNTER = "torch.utils.flop_counter"

Shape = Sequence[int]


def register_when_imported() -> None:
    if _COUNTER in sys.modules:
        register(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the counter as it would be found, and registers once it is loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _COUNTER:
            return None
        place = sys.meta_path.index(self)
        del sys.meta_path[place]
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(place, self)  # who looks for a module need not load it
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                register(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


def register(counter: Any) -> None:
    """Register a formula for each dispatcher op with a convolution in it. Formulas get shapes in place of tensors."""
    ops = torch.ops.afa
    of, backward_of = counter.conv_flop_count, counter.conv_backward_flop

    def of_backward(grad: Shape, x: Shape, weight: Shape, needed: Sequence[bool], groups: int = 1) -> int:
        options = None, (1, 1), (0, 0), (1, 1), False, (0, 0), groups, [*needed, False]
        return backward_of(grad, x, weight, *options, out_shape=(x, weight))

    @counter.register_flop_formula(ops.bn_relu_conv2d)
    def bn_relu_conv2d(hidden: Shape, *args: Any, out_shape: Any, **_: Any) -> int:
        conv_weight = args[4]
        return of(hidden, conv_weight, out_shape[0])

    @counter.register_flop_formula(ops.bn_relu_conv2d_backward)
    def bn_relu_conv2d_backward(grad: Shape, hidden: Shape, *args: Any, **_: Any) -> int:
        conv_weight, groups, needed = args[2], args[9], args[13]
        return of_backward(grad, hidden, conv_weight, (any(needed[:3]), needed[3]), groups)

    @counter.register_flop_formula(ops.bn_relu_project)
    def bn_relu_project(hidden: Shape, *args: Any, out_shape: Any, **_: Any) -> int:
        project_weight = args[4]
        return of(hidden, project_weight, out_shape[0])

    @counter.register_flop_formula(ops.bn_relu_project_backward)
    def bn_relu_project_backward(grad: Shape, hidden: Shape, *args: Any, **_: Any) -> int:
        project_weight, needed = args[2], args[9]
        return of_backward(grad, hidden, project_weight, (any(needed[:3]), needed[3]))

    # Of an upsampling the fusion counts the convolution, which the pooling of the same map makes once more.
    @counter.register_flop_formula(ops.upsampled_fusion)
    def upsampled_fusion(shallow: Shape, deep: Shape, weight: Shape, *args: Any, out_shape: Any, **_: Any) -> int:
        return of(deep, weight, out_shape[0], transposed=True)

    @counter.register_flop_formula(ops.upsampled_fusion_backward)
    def upsampled_fusion_backward(
        grad: Shape, shallow: Shape, deep: Shape, weight: Shape, spatial: Shape, channel: Shape, needed: Any, **_: Any
    ) -> int:
        groups = weight[0]
        options = None, (1, 1), (0, 0), (1, 1), True, (0, 0), groups, [needed[1], needed[2], False]
        return backward_of(grad, deep, weight, *options, out_shape=(deep, weight))

    def of_both_branches(avg: Shape, conv1: Shape, conv2: Shape) -> int:
        hidden = avg[0], conv1[0], 1, 1
        return 2 * (of(avg, conv1, hidden) + of(hidden, conv2, (avg[0], conv2[0], 1, 1)))

    @counter.register_flop_formula(ops.channel_attention)
    def channel_attention(avg: Shape, max: Shape, conv1_weight: Shape, *args: Any, **_: Any) -> int:
        return of_both_branches(avg, conv1_weight, args[4])

    @counter.register_flop_formula(ops.channel_attention_training)
    def channel_attention_training(avg: Shape, max: Shape, conv1_weight: Shape, *args: Any, **_: Any) -> int:
        return of_both_branches(avg, conv1_weight, args[2])

    @counter.register_flop_formula(ops.channel_attention_backward)
    def channel_attention_backward(grad: Shape, avg: Shape, max: Shape, conv1: Shape, *args: Any, **_: Any) -> int:
        conv2, needed = args[4], args[9]
        of_avg, of_max, of_conv1, of_weight, of_bias, of_conv2 = needed
        hidden = avg[0], conv1[0], 1, 1
        of_norm = of_avg or of_max or of_conv1 or of_weight or of_bias
        first = of_backward(hidden, avg, conv1, (of_avg or of_max, of_conv1))
        return 2 * (first + of_backward(grad, hidden, conv2, (of_norm, of_conv2)))
