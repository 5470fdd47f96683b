"""What a wheel that was just installed must do, run from anywhere: python smoke.py BACKEND."""

import os
import sys
import warnings

sys.path.pop(0)  # the folder of this file
os.chdir("/")

import torch  # noqa: E402

import afa_kernels  # noqa: E402
from afa_kernels.nn import AttentiveFusion  # noqa: E402

info = afa_kernels.backend_info()
print(info)
assert info.chosen["cpu"] == sys.argv[1], info

shallow, deep = torch.randn(2, 16, 9, 11), torch.randn(2, 16, 9, 11)
module = AttentiveFusion(16)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    out = module.eval()(shallow, deep)
assert [str(w.message).startswith("afa_kernels runs plain PyTorch") for w in caught] == [True] * (
    sys.argv[1] == "reference"
), caught
with afa_kernels.use_backend("reference"):
    torch.testing.assert_close(out, module(shallow, deep))
module.train()(shallow, deep).sum().backward()
assert all(p.grad is not None for p in module.parameters())
