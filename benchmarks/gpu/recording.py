"""A plugin of pytest that writes failures, and now and then a tally, to the record of the session."""

from __future__ import annotations

import collections
import os
import time
from typing import Any

import pytest

from benchmarks.gpu.session import from_environment

EVERY = 10.0  # seconds


class Recording:
    def __init__(self) -> None:
        self.session, self.count = from_environment(), collections.Counter[str]()
        self.collected, self.told = 0, time.time()

    def pytest_collection_finish(self, session: Any) -> None:
        self.collected = max(self.collected, len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Any) -> None:
        self.collected = max(self.collected, len(ids))

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.session.record(item=report.nodeid, outcome="failed", detail=str(report.longrepr)[-2000:])

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.session.record(item=report.nodeid, outcome="failed", detail=str(report.longrepr)[-2000:])
        if report.when == "call" or report.outcome != "passed":
            self.count[report.outcome] += 1
        if time.time() - self.told > EVERY:
            self.tally()

    def pytest_sessionfinish(self, session: Any, exitstatus: Any) -> None:
        self.tally()

    def tally(self) -> None:
        self.told = time.time()
        self.session.record(item="tally", collected=self.collected, **self.count)


def pytest_configure(config: Any) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(Recording())
