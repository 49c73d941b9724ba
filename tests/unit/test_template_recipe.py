"""Recipes: ours are whole, a bad one is named by file and line; apt sources are turned right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzpy import aptsources, busybox, data, mmdebstrap, recipe
from vzpy.errors import VzError

GOOD = """summary: a test
builder: mmdebstrap
arch: x86_64
suite: bookworm
"""


@pytest.mark.parametrize("name", recipe.names("/nonexistent"))
def test_ours_are_whole(name):
    loaded = recipe.load(data.path("recipes", name + ".yaml"))
    assert name.endswith(str(loaded["arch"]))


@pytest.mark.parametrize(
    "text, line, word",
    [
        ("a: [", 1, "expected"),
        ("- a\n", 0, "mapping"),
        (GOOD + "colour: red\n", 5, "unknown key 'colour'"),
        (GOOD.replace("bookworm", "[12]"), 4, "suite has to be a str"),
        (GOOD.replace("mmdebstrap", "magic"), 2, "builder is 'magic'"),
        (GOOD.replace("suite", "packages: []\n#"), 0, "suite is missing"),
        (GOOD.replace("builder", "#"), 0, "builder is None"),
        ("summary: x\nbuilder: busybox\narch: x86_64\n", 0, "directories is missing"),
        ("\x01", 0, "special characters"),
    ],
)
def test_bad_recipes(tmp_path, text, line, word):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(VzError) as error:
        recipe.load(str(path))
    assert error.value.code == 47
    assert str(error.value).startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert word in str(error.value)


@given(st.text())
def test_any_text_is_a_recipe_or_an_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "replace"))
    try:
        recipe.load(str(path))
    except VzError as error:
        assert error.code == 47


@pytest.mark.parametrize("path", ["etc/x", "/a/../b", "/a/", 7])
def test_busybox_paths(path):
    with pytest.raises(VzError):
        busybox._mapping({"files": {path: {}}}, "files")


@pytest.mark.parametrize("mode", ["0755", 0o200755, -1])
def test_busybox_modes(mode):
    with pytest.raises(VzError):
        busybox._mode("/x", mode)


def test_options_of_mmdebstrap(tmp_path):
    given = {"packages": ["a", "b"], "exclude": ["/usr/share/doc/*"], "setup": "true\n"}
    words = mmdebstrap.options(given, str(tmp_path), ['Acquire::http::Proxy "x"'])
    assert "--include=a,b" in words and "--variant=minbase" in words
    assert '--aptopt=Acquire::http::Proxy "x"' in words
    assert "--dpkgopt=path-exclude=/usr/share/doc/*" in words
    assert (tmp_path / "setup.sh").read_text() == "true\n"


# apt sources

DEB822 = """\
Types: deb deb-src
# a comment
URIs: http://mirror/debian
Suites: trixie trixie-updates trixie-backports
Components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://vendor/
Suites: nodistro
Components: main

Enabled: no
Types: deb
URIs: http://off/
Suites: trixie
"""
ONE_LINE = """\
# deb http://commented trixie main
deb [arch=amd64 signed-by=/k.gpg] http://mirror/security trixie-security main contrib # end
deb-src http://mirror/debian trixie main
deb cdrom:[x] trixie
nonsense
"""


@pytest.fixture
def apt(tmp_path):
    folder = tmp_path / "apt"
    (folder / "sources.list.d").mkdir(parents=True)
    (folder / "sources.list").write_text(ONE_LINE)
    (folder / "sources.list.d/debian.sources").write_text(DEB822)
    (folder / "sources.list.d/debian.sources.save").write_text(DEB822)
    (tmp_path / "os-release").write_text('NAME=x\nVERSION_CODENAME="trixie"\n')
    return folder


def test_the_machines_sources_turned(apt, tmp_path):
    text = aptsources.for_suite("bookworm", str(apt), str(tmp_path / "os-release"))
    assert text == (
        "Types: deb\nURIs: http://mirror/security\nSuites: bookworm-security\n"
        "Components: main contrib\nSigned-By: /k.gpg\n"
        "\n"
        "Types: deb\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main\nSigned-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n"
    )


def test_no_sources(tmp_path):
    with pytest.raises(VzError, match="no entry that could serve bookworm") as error:
        aptsources.for_suite("bookworm", str(tmp_path), str(tmp_path / "none"))
    assert error.value.code == 47


@given(st.text())
def test_any_sources_file_is_read(text):
    for parse in (aptsources.parse_deb822, aptsources.parse_one_line):
        for entry in parse(text):
            aptsources.turn(entry, "bookworm", ("trixie", "bookworm"))
