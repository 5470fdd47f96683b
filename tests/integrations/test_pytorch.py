"""Programs of PyTorch's own exporters, in a process that has done nothing but load them; and quantisation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_nn_tracing import images, made
from torch import Tensor, nn

import afa_kernels
from afa_kernels.nn import AttentiveFusion, MultiScale

ROOT = Path(__file__).parents[2]
LOAD = {
    "torch.export": "torch.export.load(folder + '/model').module()",
    "AOTInductor": "torch._inductor.aoti_load_package(folder + '/model')",
    "torch.jit.trace": "torch.jit.load(folder + '/model')",
}
FRESH = """
import sys, torch
{imported}
folder = sys.argv[1]
model = {load}
given, expected = torch.load(folder + "/expected")
with torch.no_grad():
    torch.testing.assert_close(model(*given), expected, rtol=1e-4, atol=1e-5)
"""


def saved(kind: str, name: str, folder: Path) -> None:
    """A program of a module for every size (traced: for one), and what it must give."""
    model, given, of_any = made(name), images(name, 2, 16, 20), torch.export.Dim.DYNAMIC
    if isinstance(model, MultiScale):
        model.eps = None
    other = given if kind == "torch.jit.trace" else images(name, 3, 24, 28)
    with torch.no_grad():
        torch.save((other, model(*other)), folder / "expected")
        if kind == "torch.jit.trace":
            torch.jit.trace(model, given).save(folder / "model")
            return
        program = torch.export.export(
            model, given, dynamic_shapes=tuple({0: of_any, 2: of_any, 3: of_any} for _ in given)
        )
    if kind == "torch.export":
        with (folder / "model").open("wb") as file:
            torch.export.save(program, file)
    else:
        (folder / "model.pt2").unlink(missing_ok=True)
        torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "model.pt2"))
        (folder / "model.pt2").rename(folder / "model")


def loaded(kind: str, folder: Path, imported: str) -> subprocess.CompletedProcess[str]:
    code = FRESH.format(imported=imported, load=LOAD[kind])
    return subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)


@pytest.mark.parametrize("name", ["AttentiveFusion", "MultiScale, ssr"])
@pytest.mark.parametrize("kind", LOAD)
def test_a_program_in_a_fresh_process(kind: str, name: str, tmp_path: Path) -> None:
    """It needs `import afa_kernels`, and without it names an operation of it."""
    saved(kind, name, tmp_path)
    done = loaded(kind, tmp_path, "import afa_kernels")
    assert done.returncode == 0, done.stderr
    done = loaded(kind, tmp_path, "")
    assert done.returncode != 0 and "afa" in done.stderr and "bn_relu_project" in done.stderr


@pytest.mark.parametrize("kind", LOAD)
def test_a_program_of_the_reference_needs_no_import(kind: str, tmp_path: Path) -> None:
    with afa_kernels.use_backend("reference"):
        saved(kind, "AttentiveFusion", tmp_path)
    done = loaded(kind, tmp_path, "")
    assert done.returncode == 0, done.stderr


class Classifier(nn.Module):
    """Convolutions to quantise around a fusion that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow, self.deep, self.fuse = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(3, 8, 3, padding=1),
            AttentiveFusion(8),
        )
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.out(self.fuse(self.shallow(image).relu(), self.deep(image).relu()))


def test_quantised_by_pt2e() -> None:
    """The network's convolutions in 8 bits; the operations stay in float32, and the result close to the model's."""
    pytest.importorskip("torchao")
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    torch.manual_seed(0)
    model, image = Classifier().eval(), torch.randn(2, 3, 32, 40)
    of_any = torch.export.Dim.DYNAMIC
    program = torch.export.export(model, (image,), dynamic_shapes=({0: of_any, 2: of_any, 3: of_any},))
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(program.module(), quantizer)
    for _ in range(4):
        prepared(torch.randn(2, 3, 32, 40))  # calibration
    quantised = convert_pt2e(prepared)
    targets = [str(node.target) for node in quantised.graph.nodes]
    assert any("quantize_per_tensor" in t for t in targets) and any("afa.attentive_fusion" in t for t in targets)
    other = torch.randn(1, 3, 48, 40)
    with torch.no_grad():
        got, expected = quantised(other), model(other)
    assert float((got - expected).square().mean() / expected.square().mean()) < 1e-2


def test_a_program_in_a_process_of_cpp(tmp_path: Path) -> None:
    """examples/cpp: exported, compiled, built, and run without Python; it says how far it is off."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("there is no C++ compiler")
    done = subprocess.run(
        [sys.executable, "-m", "examples.cpp.export", "--output", tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "difference" in done.stdout, done.stderr
