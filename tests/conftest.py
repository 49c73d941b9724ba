"""What holds for every suite: inside the virtual machine nothing is skipped, and a busy machine may
be slow."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# A shell without a terminal starts what goes to the background with SIGINT ignored, nohup(1) with
# SIGHUP: tools that are tested would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """VZ_TEST_VM=1: the machine was made for these tests, so an ability it lacks is a failure."""
    report = yield
    if report.skipped and os.environ.get("VZ_TEST_VM") == "1" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure here: {report.longrepr[2]}"
    return report
