"""Export an up-path and a rendering for C++, build the program beside this file, and run it.

    python -m examples.cpp.export [--output demo/cpp]

The program links libtorch (of the installed torch) and loads the library of afa_kernels; it starts no Python.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import cpp_extension

import afa_kernels
from afa_kernels import backends
from afa_kernels.nn import AFADLAUp


class Network(nn.Module):
    """Levels of a backbone to scores: an up-path, and the rendering of two scales of its prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.up = AFADLAUp((8, 16, 32), (1, 2, 4))
        self.classify, self.attend = nn.Conv2d(8, 5, 1), nn.Conv2d(8, 2, 1)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        features = self.up([fine, middle, coarse])[-1]
        scores = self.classify(features)
        size = 2 * features.shape[2], 2 * features.shape[3]
        return afa_kernels.scale_space_render(
            [nn.functional.avg_pool2d(scores, 2), scores], self.attend(features), size=size
        )


def export(folder: Path) -> None:
    """model.pt2 and tensors.pt into the folder."""
    torch.manual_seed(0)
    network = Network().eval()
    levels = torch.randn(1, 8, 32, 48), torch.randn(1, 16, 16, 24), torch.randn(1, 32, 8, 12)
    with torch.no_grad():
        torch.save([*levels, network(*levels)], folder / "tensors.pt")
        program = torch.export.export(network, levels)
        program = program.run_decompositions(afa_kernels.export_decompositions())
    torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "model.pt2"))


def build(folder: Path) -> Path:
    """The program, by the C++ compiler that CXX names, or c++."""
    program, torch_folder = folder / "run", Path(torch.__file__).parent
    command = [os.environ.get("CXX", "c++"), "-std=c++20", "-O1", str(Path(__file__).with_name("main.cpp"))]
    command += [f"-I{path}" for path in cpp_extension.include_paths()]
    command += [f"-L{torch_folder / 'lib'}", f"-Wl,-rpath,{torch_folder / 'lib'}", "-Wl,--no-as-needed"]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    command += ["-ltorch", "-ltorch_cpu", "-lc10", "-ldl", "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo/cpp"))
    folder = parser.parse_args(argv).output
    folder.mkdir(parents=True, exist_ok=True)
    export(folder)
    library = backends._library("_native")
    assert library is not None  # export_decompositions has asked for it
    subprocess.run([build(folder), library, folder / "model.pt2", folder / "tensors.pt"], check=True)


if __name__ == "__main__":
    main()
