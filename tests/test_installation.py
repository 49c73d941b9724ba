"""make install and uninstall for real, where this machine's folders are covered by overlays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SCRIPT = """
set -eu
for dir in etc usr/lib usr/sbin usr/share var; do
	mkdir -p $TMP/$dir/upper $TMP/$dir/work
	mount -t overlay overlay -o lowerdir=/$dir,upperdir=$TMP/$dir/upper,workdir=$TMP/$dir/work /$dir
done
cd $ROOT
make --silent install
cd /
$CHECKS
cd $ROOT
make --silent uninstall
"""
CHECKS = r"""
env -i /usr/sbin/vzctl --version
env -i /usr/sbin/vz setup | wc -l
env -i /usr/sbin/vzctl status 101
head -n 1 /usr/sbin/vzlist
/etc/init.d/vz status || echo $?
/etc/init.d/vz nonsense 2>&1 || echo $?
grep ^VE_PRIVATE /etc/vz/vz.conf
man -w vzctl vz.conf >/dev/null
cd /usr/lib/vzpy/vzpy && find . -name '*.py' | wc -l && find . -name '*.pyc' | wc -l
/usr/bin/python3 -ISc "import marshal; f = open('__pycache__/cli.cpython-%d%d.pyc' % __import__('sys').version_info[:2], 'rb'); f.seek(16); print(marshal.load(f).co_filename)"
"""  # noqa: E501


def in_overlays(tmp_path: Path, checks: str) -> list[str]:
    if os.geteuid():
        pytest.skip("needs root")
    env = {"PATH": os.environ["PATH"], "TMP": str(tmp_path), "ROOT": str(ROOT), "CHECKS": checks,
           "VZDIR": str(tmp_path / "vz"), "HOME": "/root"}
    script = SCRIPT.replace("$CHECKS", checks)
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], env=env, text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def left_over(tmp_path: Path):
    """What the upper layers hold that the machine has not."""
    for name in ("etc", "usr/lib", "usr/sbin", "usr/share", "var"):
        upper = tmp_path / name / "upper"
        for folder, folders, files in os.walk(upper):
            real = Path("/", name, Path(folder).relative_to(upper))
            yield from (f"{real}/{file}" for file in files if file != "vzctl.log")
            yield from (f"{real}/{file}" for file in folders if not (real / file).exists())


@pytest.mark.slow
def test_install_works_and_uninstall_leaves_no_trace(tmp_path):
    if sys._base_executable != "/usr/bin/python3" and not os.path.exists("/usr/bin/python3"):
        pytest.skip("needs /usr/bin/python3")
    out = in_overlays(tmp_path, CHECKS)
    at = next(i for i, line in enumerate(out) if line.startswith("vzctl version"))
    made, checks = out[:at], out[at:]
    assert "Created /etc/vz/vz.conf" in made
    assert checks[1] == "0"  # the second vz setup
    assert checks[2] == "CTID 101 deleted unmounted down"
    assert checks[3] == "#!/usr/bin/python3 -IS"
    assert checks[4:6] == ["OpenVZ is stopped.", "3"]
    assert checks[6:8] == ["Usage: vz {start|stop|status|restart|force-reload}", "3"]
    assert checks[8] == f'VE_PRIVATE="{tmp_path}/vz/private/$VEID"'
    assert checks[9] == checks[10] != "0"
    assert checks[11] == "/usr/lib/vzpy/vzpy/cli.py"
    assert list(left_over(tmp_path)) == []
    assert not os.path.exists(tmp_path / "vz")
