"""Which modules of a model compute from their children's parameters in one operation, and why the others call them."""

from __future__ import annotations

from torch import nn


def fusing(model: nn.Module) -> dict[str, str | None]:
    """By name within `model`, every module that could fuse: None where it does, else the reason why it does not.

    >>> import torch, afa_kernels.nn
    >>> model = afa_kernels.nn.AttentiveFusion(16, norm=torch.nn.InstanceNorm2d)
    >>> afa_kernels.nn.fusing(model)["ca"]
    'conv1.1.0 is a InstanceNorm2d, not exactly a BatchNorm2d or ABN'
    """
    found = {}
    for name, module in model.named_modules():
        why_not = getattr(module.__dict__.get("forward", module), "why_not_fused", None)
        if why_not is not None:
            found[name] = why_not()
    return found
