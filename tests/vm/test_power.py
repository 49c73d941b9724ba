"""Power cuts: the machine is killed in the middle of what vzpy does to disks, and booted again.

Two disks, an ext4 and an xfs, outlive the machine; all else is lost, as are the pages that it had
not written back. What happens inside is inside_power.py's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from . import vm
from .host import VMError, check_machine
from .inside_power import CUT

pytestmark = pytest.mark.vm
ROUNDS = 3
DISK_SIZE = 2 << 30


@pytest.mark.skipif(not os.environ.get("VZ_TEST_VM_ALL"), reason="of `make test-vm`: 4 boots")
def test_power_cuts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    try:
        check_machine()
    except VMError as error:
        pytest.skip(str(error))
    disks = [tmp_path / "ext4", tmp_path / "xfs"]
    for disk in disks:
        with open(disk, "wb") as file:
            file.truncate(DISK_SIZE)
    for number in range(ROUNDS + 1):
        with capsys.disabled():
            outcome = vm.run_command(
                ["python3", "-m", "tests.vm.inside_power", str(number), str(ROUNDS)],
                results=tmp_path / f"results{number}",
                timeout_s=600,
                disks=disks,
                cut=CUT.encode(),
            )
            print(f"vm: power cut {number}: status {outcome.status}, {outcome.total_s:.1f} s")
        assert outcome.status == (-signal.SIGKILL if number < ROUNDS else 0)
