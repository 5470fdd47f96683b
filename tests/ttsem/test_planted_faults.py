"""The session can fail: every planted fault is found, as what it is, where it is."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from planted_faults import FAULTS, Fault, plant
from ttsem import sanitize

from afa_kernels import backends
from afa_kernels.testing import Case, check

pytestmark = pytest.mark.usefixtures("poisoned")


def run(fault: Fault, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """attentive_fusion, forward and backward, with the fault in its kernels."""
    batch, channels, height, width = fault.shape
    shapes = (fault.shape, fault.shape, (batch, 1, height, width), (batch, channels, 1, 1))
    case = Case("attentive_fusion", fault.name, shapes)
    monkeypatch.setitem(sys.modules, "afa_kernels.triton_kernels.attentive_fusion", plant(fault, folder))
    backends.launcher.cache_clear()
    try:
        check(case, case.inputs(torch.float32), "triton")
    finally:
        backends.launcher.cache_clear()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_found(fault: Fault, checked: sanitize.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault.found_as == "values":
        with pytest.raises(AssertionError, match=r"output 0 of attentive_fusion: .* never written"):
            run(fault, tmp_path, monkeypatch)
        return
    with pytest.raises(sanitize.KernelFault) as raised:
        run(fault, tmp_path, monkeypatch)
    found = raised.value.fault
    assert (found.kind, found.kernel) == (fault.found_as, fault.kernel)
    if fault.name != "an offset wraps":  # which is found where the wrapped offset is used
        assert fault.faulty in found.source_text


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_sound_without_it(
    fault: Fault, checked: sanitize.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(dataclasses.replace(fault, faulty=fault.line), tmp_path, monkeypatch)
    assert checked.launches > 0
