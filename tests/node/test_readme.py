"""The example of README.md does what it says."""

from __future__ import annotations

import subprocess
import sys

import tools


def test_ten_vpss(node):
    text = (tools.ROOT / "README.md").read_text()
    script = text.partition("```python\n")[2].partition("```")[0]
    env = {**tools.ENV, "VZ_ETC": node.paths.etc, "VZ_RUN": node.paths.run,
           "PYTHONPATH": str(tools.ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:10] == [f"web{ctid}" for ctid in range(1001, 1011)]
    assert lines[10:] == [f"{ctid} exist mounted running" for ctid in range(1001, 1011)]
