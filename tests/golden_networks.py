"""The networks as the checker of their recorded values calls them: the interface of the official code.

python tests/golden/networks/check_networks.py tests/golden_networks.py
"""

from __future__ import annotations

from typing import Any

from torch import nn

from afa_kernels.models import DLA


def build(name: str, **options: Any) -> nn.Module:
    if name == "dla":
        return DLA(options["base_name"])
    raise NotImplementedError
