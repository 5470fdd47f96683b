"""torch.onnx.export of operations, modules and networks, for every batch and size, run by onnxruntime and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.parts import roles, wider
from test_nn_tracing import MODULES, images, made
from torch import Tensor, nn

import afa_kernels
from afa_kernels import models, selfcheck
from afa_kernels.nn import MultiScale
from afa_kernels.testing import Case, listed, operations, tensors, with_tensors

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

PUBLIC = [op for op in operations() if hasattr(afa_kernels, op)]  # the other works in place, and no program has it


def by_onnxruntime(file: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        return list(map(torch.from_numpy, session.run(None, dict(zip(names, (x.numpy() for x in inputs))))))

    return run


def by_openvino(file: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    openvino = pytest.importorskip("openvino")
    # By default it computes in bfloat16 where the processor can.
    model = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        return [torch.from_numpy(y.copy()) for y in model([x.numpy() for x in inputs]).values()]

    return run


RUNTIMES = {"onnxruntime": by_onnxruntime, "openvino": by_openvino}
runtimes = pytest.mark.parametrize("runtime", RUNTIMES)


def exported(
    model: nn.Module, given: tuple[Any, ...], dynamic_shapes: Any, file: Path, opset: int | None = None
) -> Path:
    """With standard operators only."""
    program = torch.onnx.export(
        model, given, dynamo=True, dynamic_shapes=dynamic_shapes, opset_version=opset, verbose=False
    )
    assert {node.domain for node in program.model.graph} == {""}
    assert opset is None or program.model.opset_imports[""] == opset
    program.save(file)
    return file


class Operation(nn.Module):
    """Of the case's features and attention; its parameters are constants of the graph."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, self.function, self.arguments = case, case.functional(), case.inputs(torch.float32)
        self.given = [role != "parameter" for role in roles(case)]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        rest = iter(maps)
        known = tensors(self.arguments)
        return self.function(*with_tensors(self.arguments, [next(rest) if g else t for g, t in zip(self.given, known)]))


@runtimes
@pytest.mark.parametrize("op", PUBLIC)
def test_operations(op: str, runtime: str, tmp_path: Path) -> None:
    case = selfcheck.CASES[op]
    model = Operation(case).eval()
    maps, larger = (
        [t for t, given in zip(some, model.given) if given]
        for some in (tensors(model.arguments), wider(case, model.arguments, 0 if "target" in case.options else 4))
    )
    of_any = torch.export.Dim.AUTO
    shapes = ([{axis: of_any for axis, side in enumerate(x.shape) if axis != 1 and side > 1} for x in maps],)
    run = RUNTIMES[runtime](exported(model, (maps,), shapes, tmp_path / "op.onnx"))
    for some in (maps, larger):
        torch.testing.assert_close(run(some), model(some), rtol=1e-4, atol=1e-5)


@runtimes
@pytest.mark.parametrize("name", [name for name in MODULES if "another" not in name])
def test_modules(name: str, runtime: str, tmp_path: Path) -> None:
    model, multiple = made(name), MODULES[name][3]
    if isinstance(model, MultiScale):
        model.eps = None  # all scales run in an exported program
    given, of_any = images(name, 2, 16, 20), torch.export.Dim.DYNAMIC
    shapes = tuple({0: of_any, 2: of_any, 3: of_any} for _ in given)
    run = RUNTIMES[runtime](exported(model, given, shapes, tmp_path / "model.onnx"))
    for other in (given, images(name, 3, 24 * multiple, 28 * multiple), images(name, 1, 18, 22)):
        with torch.no_grad():
            expected = listed(model(*other))
        torch.testing.assert_close(run(other), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("name", ["AttentiveFusion", "MultiScale, ssr", "MultiScale, hma"])
def test_opsets(name: str, opset: int, tmp_path: Path) -> None:
    model = made(name)
    if isinstance(model, MultiScale):
        model.eps = None
    given, of_any = images(name, 2, 16, 20), torch.export.Dim.DYNAMIC
    shapes = tuple({0: of_any, 2: of_any, 3: of_any} for _ in given)
    run = by_onnxruntime(exported(model, given, shapes, tmp_path / "model.onnx", opset))
    other = images(name, 3, 24, 28)
    with torch.no_grad():
        torch.testing.assert_close(run(other), listed(model(*other)), rtol=2e-5, atol=2e-5)


# Of each kind one; several scales run the same layers again.
NETWORKS: dict[str, dict[str, Any]] = {
    "dla34_seg": {},
    "afa_dla34": {},
    "afa_dla34_ssr": {"scales": (0.5, 1.0)},
    "afa_dla34_hma": {"scales": (0.5, 1.0)},
    "afa_dla34_ocr_ssr": {"scales": (0.5, 1.0)},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.create(name, num_classes=5, **NETWORKS[name]).eval()
    given, of_any = torch.randn(1, 3, 128, 128), torch.export.Dim.DYNAMIC
    file = exported(model, (given,), ({0: of_any, 2: of_any, 3: of_any},), tmp_path / "network.onnx")
    for runtime in RUNTIMES.values():
        run = runtime(file)
        for some in (given, torch.randn(2, 3, 200, 264)):
            with torch.no_grad():
                expected = model(some)
            (scores,) = run([some])
            # Of deep networks that nobody has trained the scores may be in the thousands.
            torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
