"""The machine's apt sources, turned to the suite of a recipe (sources.list(5)).

Of the machine's entries those of its own release count, with updates and security, whatever their
mirror: `trixie-security` of a Debian 13 host becomes `bookworm-security` for a Debian 12 template.
Entries of other vendors stay out. Both formats are read, and deb822 is written."""

from __future__ import annotations

import os

from vzpy.errors import Exit, VzError

APT = "/etc/apt"
OS_RELEASE = "/etc/os-release"
POCKETS = ("", "-updates", "-security", "/updates")
ALIASES = ("stable", "oldstable", "testing")
ONE_LINE_OPTIONS = {
    "signed-by": "Signed-By",
    "trusted": "Trusted",
    "check-valid-until": "Check-Valid-Until",
    "check-date": "Check-Date",
    "allow-insecure": "Allow-Insecure",
}
KEPT = ("Types", "URIs", "Suites", "Components", *ONE_LINE_OPTIONS.values())


def for_suite(suite: str, apt: str = APT, os_release: str = OS_RELEASE) -> str:
    """Stanzas in deb822 format that name `suite`. Raises VzError 47 when the machine has none."""
    own = (codename(os_release), suite, *ALIASES)
    stanzas = []
    for path in source_files(apt):
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
        entries = parse_deb822(text) if path.endswith(".sources") else parse_one_line(text)
        stanzas += [turned for entry in entries if (turned := turn(entry, suite, own))]
    if not stanzas:
        raise VzError(
            f"The apt sources of this machine have no entry that could serve {suite}",
            Exit.FS_BAD_TMPL,
            hint=f"Add one for {suite} to {apt}/sources.list.d, or put a tarball into the cache.",
        )
    return "\n".join("".join(f"{k}: {v}\n" for k, v in s.items()) for s in stanzas)


def codename(os_release: str) -> str:
    """VERSION_CODENAME of the machine, "" when it has none (sid has none)."""
    try:
        with open(os_release, encoding="utf-8") as file:
            for line in file:
                key, _, value = line.strip().partition("=")
                if key == "VERSION_CODENAME":
                    return value.strip("\"'")
    except OSError:
        pass
    return ""


def source_files(apt: str) -> list[str]:
    folder = os.path.join(apt, "sources.list.d")
    paths = [os.path.join(apt, "sources.list")]
    if os.path.isdir(folder):
        paths += sorted(os.path.join(folder, name) for name in os.listdir(folder))
    return [p for p in paths if os.path.isfile(p) and p.endswith((".list", ".sources"))]


def parse_deb822(text: str) -> list[dict[str, str]]:
    """Stanzas as mappings; a continued value keeps its line ends (an embedded key)."""
    stanzas: list[dict[str, str]] = [{}]
    field = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            stanzas.append({})
        elif line[0] in " \t":
            if field in stanzas[-1]:
                stanzas[-1][field] += "\n" + line
        else:
            name, _, value = line.partition(":")
            field = next((known for known in KEPT if known.lower() == name.lower()), name)
            stanzas[-1][field] = value.strip()
    return [s for s in stanzas if s.get("Enabled", "yes").lower() not in ("no", "false", "0")]


def parse_one_line(text: str) -> list[dict[str, str]]:
    """`deb [signed-by=F] URI SUITE COMPONENT...` as stanzas."""
    stanzas = []
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        kind, _, rest = line.partition(" ")
        options, rest = "", rest.strip()
        if rest.startswith("["):
            options, _, rest = rest[1:].partition("]")
        words = rest.split()
        if kind != "deb" or len(words) < 2:
            continue
        stanza = {"Types": kind, "URIs": words[0], "Suites": words[1]}
        if words[2:]:
            stanza["Components"] = " ".join(words[2:])
        for option in options.split():
            name, _, value = option.partition("=")
            if name.lower() in ONE_LINE_OPTIONS:
                stanza[ONE_LINE_OPTIONS[name.lower()]] = value
        stanzas.append(stanza)
    return stanzas


def turn(stanza: dict[str, str], suite: str, own: tuple[str, ...]) -> dict[str, str] | None:
    """The stanza with its suites turned to `suite`; None when it is not the distribution's."""
    uris = stanza.get("URIs", "cdrom:")
    if "deb" not in stanza.get("Types", "").split() or uris.startswith("cdrom:"):
        return None
    known = {release + pocket: suite + pocket for release in own if release for pocket in POCKETS}
    suites = [known[word] for word in stanza.get("Suites", "").split() if word in known]
    if not suites:
        return None
    kept = {key: stanza[key] for key in KEPT if key in stanza}
    return kept | {"Types": "deb", "Suites": " ".join(dict.fromkeys(suites))}
