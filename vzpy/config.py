"""vz.conf and N.conf: reading, layering, saving (config-files.md 2).

A file is split into lines when a key is asked for that may be in it; a value is interpreted when
it is asked for, so that vzlist reads 400 files in a few hundredths of a second. What is wrong in a
file is a warning, never an error."""

from __future__ import annotations

import _stat as stat
import os

from vzpy.errors import ConfigError, Exit, VzError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from vzpy.params import Param

RENAMED = {"DCACHE": "DCACHESIZE", "IPTENTRIES": "NUMIPTENT"}  # as older files have them
_SUBSTITUTED = ("VE_ROOT", "VE_PRIVATE")
_NEW_NAMES = tuple(RENAMED.values())
# Numbers of vz.conf that every command asks for, and few have two digits.
_DIGITS = ("LOG_LEVEL", "VERBOSE")
_MAX_SIZE = 1 << 20  # a configuration is a few KiB; somebody's core dump is not one


class Layer:
    """One file: key -> (text, line number), and what was wrong with its lines."""

    def __init__(self, path: str, content: str = "") -> None:
        self.path = path
        self._content = content
        self._is_split = False
        self._entries: dict[str, tuple[str, int]] = {}
        self._warnings: list[str] = []

    @property
    def entries(self) -> dict[str, tuple[str, int]]:
        self._split()
        return self._entries

    @property
    def warnings(self) -> list[str]:
        self._split()
        return self._warnings

    def get(self, key: str) -> tuple[str, int] | None:
        """(text, line number) of a key."""
        is_absent = key not in self._content and key not in _NEW_NAMES
        return None if is_absent else self.entries.get(key)

    def _split(self) -> None:
        if self._is_split:
            return
        self._is_split = True
        for number, line in enumerate(self._content.split("\n"), 1):
            line = line.lstrip()
            if not line or line[0] == "#":
                continue
            key, equals, rest = line.partition("=")
            if not equals:
                self._unreadable(number, "'=' not found")
                continue
            if rest[:1] == '"':
                end = rest.rfind('"')
                if end == 0:
                    self._unreadable(number, "unmatched quotes")
                    continue
                text = rest[1:end]
            else:
                text = rest.rstrip()
            if "\\" in text:
                text = _unescape(text)
            key = RENAMED.get(key, key)
            if key in self._entries:
                self._again(key, text, number)
            else:
                self._entries[key] = (text, number)

    def _unreadable(self, number: int, why: str) -> None:
        self._warnings.append(f"Warning: can't parse {self.path}:{number} ({why}), skipping")

    def _again(self, key: str, text: str, number: int) -> None:
        repeat = _repeat(key)
        if repeat == "last":
            self._entries[key] = (text, number)
        elif repeat == "list":
            before, first = self._entries[key]
            self._entries[key] = (f"{before} {text}", first)
        else:
            self._warnings.append(
                f'Warning at {self.path}:{number}: duplicate for {key} ("{text}"), ignored'
            )


class Config:
    """What holds for one VPS: vz.conf, over it N.conf, over it `overrides` (the command line).

    `warnings` are lines for standard error, growing while values are read; `notes` are the
    contract's progress lines (standard output) and `unknown` those of --verbose."""

    def __init__(self, layers: list[Layer], ctid: int = 0, exists: bool = True) -> None:
        self.ctid = ctid
        self.exists = exists
        self.path = layers[-1].path
        self._layers = layers
        self._overrides: dict[str, str] = {}
        self._values: dict[str, Any] = {}
        self._wrong: list[str] = []  # with values
        self.notes: list[str] = []

    @property
    def warnings(self) -> list[str]:
        return [warning for layer in self._layers for warning in layer.warnings] + self._wrong

    def vps(self, ctid: int, path: str, overrides: Mapping[str, str] | None = None) -> Config:
        """The configuration of one VPS over this global one; `exists` says if N.conf does."""
        content = _read(path)
        config = Config([self._layers[0], Layer(path, content or "")], ctid, content is not None)
        config._overrides = dict(overrides or {})
        return config

    def raw(self, key: str) -> str | None:
        """The text that holds, or None; $VEID is substituted in VE_ROOT and VE_PRIVATE."""
        text = self.literal(key)
        if text is not None and key in _SUBSTITUTED:
            text = text.replace("$VEID", str(self.ctid))
        return text

    def literal(self, key: str) -> str | None:
        """The text that holds, as its file has it: with $VEID."""
        return next((text for text, _, _ in self._found(key)), None)

    def own(self, key: str) -> str | None:
        """The text in N.conf itself."""
        entry = self._layers[-1].get(key)
        return entry[0] if entry and len(self._layers) > 1 else None

    def value(self, key: str) -> Any:
        """The value that holds, None when there is none; a bad one is warned of and skipped."""
        if key not in self._values:
            self._values[key] = self._value(key)
        return self._values[key]

    def effective(self, key: str) -> Any:
        """The value that holds, else the table's default."""
        found = self.value(key)
        if found is None and (param := _param(key)) and param.default is not None:
            from vzpy import values

            return values.parse(param.kind, param.default)
        return found

    def check(self) -> None:
        """Read every parameter once, so that `warnings` is complete."""
        from vzpy.params import BY_KEY

        given = {key for layer in self._layers for key in layer.entries}
        for key in BY_KEY:
            if key in given or key in self._overrides:
                self.value(key)
        if "VETH" in self._layers[-1].entries:
            self.notes.append(
                "Warning: VETH parameter is deprecated, remove it and use --netif_add instead"
            )
        path = self._layers[0].path
        if len(self._layers) > 1 and "NETFILTER" in self._layers[0].entries:
            self.notes.append(
                f"Warning: NETFILTER should not be set in {path}, ignoring\n"
                "Please set it in the configuration of each container instead"
            )
        if len(self._layers) > 1 and "LOCAL_UID" in self._layers[0].entries:
            self._wrong.append(
                f"Warning: LOCAL_UID in {path} is ignored: every container has a range of its own"
            )

    def unknown(self) -> list[str]:
        """One line for each unknown parameter (shown with --verbose)."""
        return [
            f'Warning at {layer.path}:{number}: unknown parameter {key} ("{text}"), ignored'
            for layer in self._layers
            for key, (text, number) in layer.entries.items()
            if not _param(key)
        ]

    def _found(self, key: str) -> Iterator[tuple[str, str, int]]:
        """(text, file, line) of a key, the strongest first."""
        if key in self._overrides:
            yield self._overrides[key], "", 0
        for layer in reversed(self._layers):
            if entry := layer.get(key):
                if layer is not self._layers[-1] and _is_local(key):
                    continue
                yield entry[0], layer.path, entry[1]

    def _value(self, key: str) -> Any:
        found = next(self._found(key), None)
        if found is None:
            return None
        if key in _DIGITS and len(found[0]) == 1 and found[0] in "0123456789":
            return int(found[0])
        from vzpy import values
        from vzpy.params import kind_of

        kind = kind_of(key)
        for text, path, number in self._found(key):
            if key in _SUBSTITUTED:
                text = text.replace("$VEID", str(self.ctid))
            try:
                return values.parse(kind, text)
            except values.Invalid as err:
                what = "invalid value" if err.rest is None else "too large value"
                done = "skipped" if err.rest is None else "truncated"
                if err.progress:
                    self.notes.append(err.detail)
                else:
                    if err.detail:
                        self._wrong.append(err.detail)
                    self._wrong.append(
                        f'Warning at {path}:{number}: {what} for {key} ("{text}"), {done}'
                    )
                if err.rest is not None:
                    return err.rest
        return None


def load_global(etc: str) -> Config:
    """vz.conf of a node. Raises ConfigError (10) when it cannot be read."""
    path = f"{etc}/vz.conf"
    hint = "Run `vz setup` to make one"
    try:
        content = _read(path)
    except VzError as err:
        raise ConfigError(err.message, hint=hint) from None
    if content is None:
        raise ConfigError(f"Unable to open {path}: {os.strerror(2)}", errno=2, hint=hint)
    return Config([Layer(path, content)])


def load(etc: str, ctid: int, overrides: Mapping[str, str] | None = None) -> Config:
    """The configuration of VPS `ctid`; `.exists` tells whether it has an N.conf."""
    return load_global(etc).vps(ctid, f"{etc}/conf/{ctid}.conf", overrides)


def load_sample(etc: str, name: str) -> Config | None:
    """conf/ve-NAME.conf-sample, None when there is none."""
    path = sample_path(etc, name)
    content = _read(path)
    return None if content is None else Config([Layer(path), Layer(path, content)])


def sample_path(etc: str, name: str) -> str:
    return f"{etc}/conf/ve-{name}.conf-sample"


def _read(path: str) -> str | None:
    """The text of a file, None when there is none; raises VzError when it cannot be read."""
    try:
        # O_NONBLOCK: a fifo of that name must not hang us
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise VzError(f"Unable to open {path}: {os.strerror(err.errno or 0)}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_SIZE:
            raise VzError(f"Unable to open {path}: not a configuration file")
        return os.fsdecode(os.read(fd, status.st_size))
    except OSError as err:
        raise VzError(f"Unable to read {path}: {os.strerror(err.errno or 0)}") from None
    finally:
        os.close(fd)


# --- saving ----------------------------------------------------------------------------------


def save(path: str, changes: Mapping[str, str | None]) -> None:
    """Set keys in a file to texts (None takes the key out); all other bytes stay as they are.

    A key's line is replaced where it stands, a new one is appended in the order of the table.
    Written beside the file that a link names and renamed over it. Raises VzError 139."""
    target = os.path.realpath(path)
    tmp = f"{target}.tmp"
    try:
        content = _read(target)
        new = edited(content or "", changes)
        if new == content:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(tmp, flags, 0o644)
        try:
            if content is not None:
                status = os.stat(target)
                os.fchown(fd, status.st_uid, status.st_gid)
                os.fchmod(fd, stat.S_IMODE(status.st_mode))
            _write(fd, os.fsencode(new))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(tmp, target)
        sync_folder(os.path.dirname(target))
    except (OSError, VzError) as err:
        try:
            os.unlink(tmp)
        except OSError:
            pass
        if isinstance(err, VzError):
            raise VzError(err.message, Exit.CONFIG_SAVE) from None
        raise VzError.of(f"Unable to save {path}", err, Exit.CONFIG_SAVE) from None


def edited(content: str, changes: Mapping[str, str | None]) -> str:
    """The text of a file with keys set to texts, None takes one out."""
    from vzpy.params import BY_KEY

    lines = [f"{line}\n" for line in content.split("\n")]
    lines[-1] = lines[-1][:-1]  # what stands after the last newline: nothing, as a rule
    places: dict[str, list[int]] = {key: [] for key in changes}
    for index, line in enumerate(lines):
        key, equals, _ = line.lstrip().partition("=")
        key = RENAMED.get(key, key)
        if equals and key in places:
            places[key].append(index)
    drop: set[int] = set()
    appended = []
    order = {key: index for index, key in enumerate(BY_KEY)}
    for key in sorted(changes, key=lambda key: order.get(key, len(order))):
        text, found = changes[key], places[key]
        if text is None:
            drop.update(found)
        elif not found:
            appended.append(f"{line_of(key, text)}\n")
        else:
            # Change the line that counts; of a list all lines count, so one of them is left
            repeat = _repeat(key)
            kept = found[-1] if repeat == "last" else found[0]
            lines[kept] = f"{line_of(key, text)}\n"
            if repeat == "list":
                drop.update(set(found) - {kept})
    body = "".join(line for index, line in enumerate(lines) if index not in drop)
    if appended and body and not body.endswith("\n"):
        body += "\n"
    return body + "".join(appended)


def _repeat(key: str) -> str:
    from vzpy import values
    from vzpy.params import kind_of

    kind = kind_of(key)
    return values.KINDS[kind].repeat if kind else "last"


def _param(key: str) -> Param | None:
    """Its row in the table, which `vzctl exec` gets by without."""
    from vzpy.params import BY_KEY

    return BY_KEY.get(key)


def _is_local(key: str) -> bool:
    from vzpy.params import is_local

    return is_local(key)


def line_of(key: str, text: str) -> str:
    """KEY="text", readable by sh as well."""
    for char in '\\"`$':
        text = text.replace(char, "\\" + char)
    if key in _SUBSTITUTED:
        text = text.replace("\\$VEID", "$VEID")
    return f'{key}="{text}"'


def _unescape(text: str) -> str:
    out, chars = "", iter(text)
    for char in chars:
        out += next(chars, char) if char == "\\" else char
    return out


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def sync_folder(path: str) -> None:
    """What was renamed in a folder survives a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
