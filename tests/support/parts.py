"""What of the battery an operation goes through.

All operations go through all of it. A test of the battery that does not apply to an operation says why in NOT_FOR, and
nowhere else; those of gradients (`gradient=True`) are for the operations that have one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cases import CASES
from torch.nn.functional import pad

from afa_kernels.testing import Case, differentiable, operation, tensors
from support import proofs
from support.session import INTERPRETED, on_triton

CONSTANT = {
    "resized_labels": "what it gives is constant, as it says",
    "scale_space_labels": "what it gives is constant, as it says",
    "scale_space_accumulate": "it is not public, and what calls it records no gradient",
}
NOT_FOR: dict[str, dict[str, str]] = {
    "test_autocast": {
        "bn_relu_conv2d": "it convolves in autocast's type, as F.conv2d does; its own file compares the two",
        "scale_space_accumulate": "it has the types of what it writes to",
    },
    "test_tangents_are_not_dropped": CONSTANT,
    "test_jvp": CONSTANT,
    "test_upstream_gradient_that_is_not_finite": {
        "bn_relu_conv2d": "how far an infinity spreads is up to the algorithm that PyTorch chooses for the convolution"
    },
    "test_vmap": {"scale_space_accumulate": "it writes to tensors that have no axis of the batch"},
    "test_upstream_gradient_in_any_layout": dict.fromkeys(
        ("resized_cross_entropy", "scale_space_cross_entropy"), "its output is one number"
    ),
}

once = pytest.mark.once  # with one kernel backend is enough: in the interpreter it takes long and shows nothing more
FIRST = list({case.op: case for case in reversed(CASES) if case.thorough}.values())  # one case per operation
SMALL = [case for case in CASES if "few values" in case.covers]
THOROUGH = [case for case in CASES if case.thorough]


def over(
    cases: Sequence[Any], names: str = "case", gradient: bool = False, all_interpreted: bool = False
) -> Callable[..., Any]:
    """Parametrise a test of the battery by the cases it applies to; tuples go to several `names`.

    Triton's interpreter gets the first case of each operation, or all, if these have not passed before.
    """
    all_interpreted = all_interpreted and not (INTERPRETED and proofs.passed("interpreter"))

    def decorate(test: Any) -> Any:
        chosen = []
        for values in cases:
            case = values[0] if isinstance(values, tuple) else values
            if case.op in NOT_FOR.get(test.__name__, ()) or (gradient and not differentiable(case.op)):
                continue
            skipped = not (on_triton(case.op) and (all_interpreted or case in FIRST))
            given = values if isinstance(values, tuple) else (values,)
            chosen.append(pytest.param(*given, marks=once if skipped else ()))
        return pytest.mark.parametrize(names, chosen, ids=name)(test)

    return decorate


def name(value: object) -> str | None:
    if isinstance(value, Case):
        return str(value).replace(" ", "_")
    if isinstance(value, tuple):
        return "+".join(map(str, value)).replace("torch.", "")
    return str(value).removeprefix("torch.")


FEATURES = ("shallow", "deep", "features", "x", "hidden", "predictions", "rendered", "prediction")
PARAMETERS = ("weight", "bias", "conv1_weight", "conv2_weight", "project_weight", "conv_weight", "conv_bias")


def roles(case: Case) -> list[str]:
    """What each tensor of the case is: a "feature" map, a "parameter", or "attention"."""
    names = case.names or tuple(inspect.signature(operation(case.op)).parameters)
    found = []
    for argument, shape in zip(names, case.shapes):
        has_parameters = not {"hidden", "x", "deep"}.isdisjoint(names)
        resized = argument == "logits" and case.op.startswith("resized")
        is_map = argument in FEATURES or resized or (names[0] in FEATURES and shape == case.shapes[0])
        role = "feature" if is_map else "parameter" if has_parameters and argument in PARAMETERS else "attention"
        found += [role] * (len(shape) if isinstance(shape, list) else 1)
    return found


def wider(case: Case, arguments: Sequence[Any], more: int) -> list[torch.Tensor]:
    """The tensors of the arguments, maps of more than one pixel larger by `more` rows and one column more.

    A map that is a multiple of the second, which is upsampled to it, stays that.
    """
    given = tensors(arguments)
    coarse = given[1].shape[-1] if case.op == "upsampled_fusion" else 0
    return [
        pad(t, (0, times * (more + 1), 0, times * more))
        if t.dim() == 4 and t.shape[-1] > 1 and role != "parameter"
        else t
        for t, role in zip(given, roles(case), strict=True)
        for times in (t.shape[-1] // coarse if coarse else 1,)
    ]
