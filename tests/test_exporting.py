"""`export_decompositions`: programs of every operation without the operators that only Python defines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import afa_kernels
from afa_kernels import backends, selfcheck
from afa_kernels.testing import operations, tensors, with_tensors

pytestmark = pytest.mark.once
needs_the_library = pytest.mark.skipif(
    "cpu" not in backends.available("attentive_fusion", "cpu"), reason="the C++ library is not built"
)


class Operation(nn.Module):
    def __init__(self, op: str) -> None:
        super().__init__()
        self.case = selfcheck.CASES[op]
        self.function, self.arguments = self.case.functional(), self.case.inputs(torch.float32)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return self.function(*with_tensors(self.arguments, maps))


def of_python(program: torch.export.ExportedProgram) -> list[str]:
    """The operators that are neither PyTorch's nor the native library's."""
    called = [node for node in program.graph.nodes if node.op == "call_function"]
    operators = [node.args[0] if "auto_functionalized" in str(node.target) else node.target for node in called]
    namespaces = {x.namespace for x in operators if isinstance(x, torch._ops.OpOverload)}
    return sorted(namespaces - {"aten", "afa_native"})


@needs_the_library
@pytest.mark.parametrize("op", [op for op in operations() if op != "scale_space_accumulate"])
def test_every_operation(op: str) -> None:
    model = Operation(op).eval()
    maps = [t.detach() for t in tensors(model.arguments)]
    with torch.no_grad():
        exported = torch.export.export(model, (maps,))
        assert of_python(exported) == ["afa"]
        program = exported.run_decompositions(afa_kernels.export_decompositions())
        assert of_python(program) == []
        for mine, theirs in zip(program.module()(maps), model(maps), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any) -> str:
        return "this installation has no compiled library"

    monkeypatch.setattr(backends, "why_not", missing)
    with pytest.raises(RuntimeError, match="export_decompositions needs the C\\+\\+ library: this installation has no"):
        afa_kernels.export_decompositions()
