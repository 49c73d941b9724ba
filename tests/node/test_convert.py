"""vzctl convert: every file as it was in every layout, and a kill at any step harms nothing."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from belongings import HOLE, furnish, picture

import tools
from vzpy.story import convert

# Every layout from every other one.
ROUND = ("overlay", "image", "simfs", "overlay", "simfs", "image", "overlay")


@pytest.fixture
def full(node):
    vps = node.create(101, diskspace="64M")
    furnish(vps)
    return vps


def neighbours(vps) -> list[str]:
    """What lies beside the private area and the configuration of a VPS that is at rest."""
    beside = [p.name for p in Path(vps.private).parent.iterdir()]
    return beside + [p.name for p in Path(vps.node.paths.conf).glob(f"{vps.ctid}.*")]


def test_texts(vzctl, node, vps):
    image = f"{vps.private}/root.img"
    vzctl("set", 101, "--diskspace", "64M", "--save")
    done = vzctl("convert", 101)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == (
        f"Creating image: {image} size=65536K\n"
        "Copying content to ploop...\n"
        "Container was successfully converted to the ploop layout\n"
    )
    assert vzctl("convert", 101).stdout == "CT is already on ploop\n"
    assert vzctl("convert", 101, "--layout", "image").stdout == "CT is already on image\n"
    assert 'VE_LAYOUT="image"' in Path(vps.conf_path).read_text()
    done = vzctl("convert", 101, "--layout", "simfs")
    assert done.stdout == (
        "Copying content to simfs...\n"
        "Container was successfully converted to the simfs layout\n"
    )
    assert "image" not in vzctl("--verbose", "start", 101).stdout
    done = vzctl("convert", 101)
    assert (done.code, done.stderr) == (32, "CT is running (stop it first)\n")
    assert vzctl("stop", 101, "--fast", "--skip-umount").code == 0
    done = vzctl("convert", 101)
    assert (done.code, done.stderr) == (41, "CT is mounted (umount it first)\n")
    assert vzctl("convert", 101, "--layout", "floppy").code == 21


def test_no_diskspace(vzctl, node, vps):
    text = Path(vps.conf_path).read_text()
    lines = [line for line in text.splitlines() if not line.startswith("DISKSPACE")]
    Path(vps.conf_path).write_text("\n".join(lines) + "\n")
    done = vzctl("convert", 101)
    assert (done.code, done.stderr) == (63, "Error: diskspace not set\n")


def test_every_file_in_every_layout(full):
    before = picture(full)
    assert len(before) > 80
    whole = neighbours(full)
    for old, new in pairwise(ROUND):
        assert full.layout == old
        assert full.convert(new)
        assert full.layout == new
        assert picture(full) == before, f"{old} -> {new}"
        assert neighbours(full) == whole
    full.start()
    assert tools.sh(full, "cat /home/one/acl") == "acl"


def test_holes_stay_holes(full):
    for layout in ("image", "simfs", "overlay"):
        full.convert(layout)
        full.mount()
        about = os.stat(f"{full.root}/home/one/sparse")
        full.umount()
        assert about.st_size > HOLE > about.st_blocks * 512 * 8


def test_back_on_the_template(full):
    """An overlay takes of its own only what is not in the template."""
    own = sorted(p.name for p in Path(full.private, "upper").iterdir())
    full.convert("simfs")
    full.convert("overlay")
    assert sorted(p.name for p in Path(full.private, "upper").iterdir()) == own
    upper = Path(full.private, "upper")
    names = {p.name for p in (upper / "bin").iterdir()}
    assert names == {"ls", "cp"}
    assert (upper / "bin/ls").stat().st_rdev == 0 and (upper / "bin/ls").is_char_device()


def test_a_tree_that_is_no_longer_needed(full):
    template = full.config.raw("TEMPLATE")
    refs = Path(template, "tree/.refs")
    mine = [p for p in refs.rglob("*") if p.is_symlink() and os.readlink(p) == full.private]
    assert len(mine) == 1
    full.convert("simfs")
    assert not os.path.lexists(mine[0])
    full.convert("overlay")
    assert os.path.lexists(mine[0])


def test_something_in_the_way(vzctl, full):
    """Of an unfinished conversion it is thrown away; what is not ours stays."""
    whole = neighbours(full)
    os.mkdir(f"{full.private}.tmp")
    os.mkdir(f"{full.private}.old")
    done = vzctl("convert", 101)
    assert (done.code, ".old is in the way" in done.stderr) == (155, True)
    os.rmdir(f"{full.private}.old")
    assert vzctl("convert", 101).code == 0
    assert neighbours(full) == whole


def test_an_image_that_is_too_small(vzctl, full):
    before, whole = picture(full), neighbours(full)
    vzctl("set", 101, "--diskspace", "2M", "--save")
    done = vzctl("convert", 101)
    assert done.code == 155
    assert done.stderr.startswith("Unable to convert the container to ploop: ")
    assert picture(full) == before and neighbours(full) == whole


# The emulated machine, where a step more takes its quarter of a minute, tries one of them.
STEPS = [pytest.param(s, marks=[] if s == "in-place" else tools.slow) for s in convert.STEPS]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("target", ["image", "overlay"])
def test_killed(vzctl, node, full, target, step):
    if target == "overlay":
        full.convert("simfs")
    elif step == "thin":
        return  # only of an overlay
    before, whole, old = picture(full), neighbours(full), full.layout
    env = {"VZ_TEST_STOP_AT": step}
    assert vzctl("convert", 101, "--layout", target, env=env).code == -9
    assert vzctl("mount", 101).code == 0
    assert vzctl("umount", 101).code == 0
    full.reload()
    assert full.layout in (old, target)
    assert picture(full) == before
    assert neighbours(full) == whole


@pytest.mark.parametrize("step", ["copying", "copy", "thin", "done"])
def test_failed(vzctl, full, step):
    full.convert("simfs")
    before, whole = picture(full), neighbours(full)
    done = vzctl("convert", 101, "--layout", "overlay", env={"VZ_TEST_FAIL_AT": step})
    assert done.code == 155
    assert picture(full) == before and neighbours(full) == whole
