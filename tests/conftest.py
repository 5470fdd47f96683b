"""What a session tests. Six sessions cover everything, each a process of its own:

pytest tests                                              the backends reference and cpu
TRITON_INTERPRET=1 pytest tests/battery                   the backend triton, in its interpreter
pytest tests/ttsem                                        the Triton kernels under a checker of memory and races
pytest tests/gate                                         the Triton kernels compiled for GPUs that are not here
pytest tests/simt                                         the CUDA kernels, compiled by g++, on the CPU
pytest tests/cubin                                        the CUDA kernels, compiled by nvcc for GPUs that are not here

with what `pip install .[integrations]` brings, another: pytest tests/integrations    runtimes, exporters and libraries

and where there is a GPU one more (`benchmarks.gpu`): AFA_KERNELS_TEST_DEVICE=cuda pytest tests -m device.

AFA_KERNELS_REQUIRE=cpu makes a missing native library a failure; without it those tests are skipped with the reason.

This folder is on the path, as pytest puts a conftest's: tests import `cases`, a file for each operation, and `support`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.guard_bands import GuardBands
from support.session import INTERPRETED, backends_of_session, runnable

from afa_kernels import backends, plans
from afa_kernels.testing import DEVICE

try:
    import hypothesis
except ImportError:  # one file alone needs it
    hypothesis = None  # type: ignore[assignment]
    collect_ignore = ["battery/test_properties.py"]

# A test passes or fails by the code alone; --hypothesis-profile=explore draws new examples at every run.
if hypothesis is not None:
    hypothesis.settings.register_profile(
        "tests", max_examples=6 if INTERPRETED else 60, deadline=None, derandomize=True
    )
    hypothesis.settings.register_profile("explore", max_examples=2000, deadline=None)
    hypothesis.settings.load_profile("tests")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`backend` is every backend of the session, `kernel` those among them that are not the reference."""
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", backends_of_session(), indirect=True)
    if "kernel" in metafunc.fixturenames:
        metafunc.parametrize("kernel", [b for b in backends_of_session() if b != "reference"], indirect=True)


def pytest_configure(config: pytest.Config) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # nor has the oracle
    config.addinivalue_line("markers", "once: not in the session of Triton's interpreter")
    config.addinivalue_line("markers", "device: runs on AFA_KERNELS_TEST_DEVICE")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    once = [item for item in items if INTERPRETED and item.get_closest_marker("once")]
    config.hook.pytest_deselected(items=once)
    items[:] = [item for item in items if item not in once]


@pytest.fixture(autouse=True)
def fresh_plans() -> None:
    """Each test makes its own: what one mocks, another's plans would pass by."""
    plans.forget()


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with backends.use_backend(runnable(request.param)):
        yield request.param


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    with backends.use_backend(runnable(request.param)):
        yield request.param


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Only deterministic algorithms, and every new tensor filled with NaN: what a kernel does not write is seen."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=DEVICE != "cpu")  # the oracle's resize has none on a GPU
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def guards() -> Iterator[GuardBands]:
    """Between `with guards:` the tensors made have bands around them, whose NaN must be there at the end."""
    bands = GuardBands()
    yield bands
    bands.check()


SESSIONS = ("ttsem", "gate", "simt", "cubin", "integrations")  # each in a process of its own


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """SESSIONS are collected only where they are named."""
    name = collection_path.name
    if name in SESSIONS and not any(name in argument for argument in config.args):
        return True
    return None
