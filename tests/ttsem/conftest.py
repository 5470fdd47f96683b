"""A session of its own: the launchers of afa_kernels.triton_kernels on CPU tensors, executed by ttsem.

ttsem executes Triton's own intermediate code and raises at the line that reads or writes outside a tensor, or that two
programs race on. It does not see a hazard inside one program through global memory, nor sizes that are not run here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from afa_kernels import backends

if os.environ.get("TRITON_INTERPRET") == "1":
    raise pytest.UsageError("tests/ttsem needs Triton's compiler: unset TRITON_INTERPRET")

sanitize = pytest.importorskip("ttsem.sanitize", reason="pip install --no-deps --ignore-requires-python ttsem==0.1.0")


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[sanitize.Session]:
    """CPU tensors go to the Triton kernels, every launch is checked, and none was too large to be."""
    monkeypatch.setattr(backends, "_triton_interpreted", lambda: True)
    with sanitize.session() as session, backends.use_backend("triton"):
        yield session
    assert session.races_unchecked == 0
