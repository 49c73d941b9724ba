"""One archive into a new VPS (migrate.md 5).

The archive is a stranger's. It is unpacked by untar.py, which sees nothing of the host. Of its
configuration only known parameters with valid values are taken, never places or ids; and what
gives the guest something of the host, or runs on the host, only when its origin is trusted."""

from __future__ import annotations

import errno
import os
import stat

from vzpy import backup, config, params, template, unpack, values, vztmp
from vzpy.errors import Exit, VzError
from vzpy.events import RestoredFrom, Warned
from vzpy.kernel import mount as m
from vzpy.story import create
from vzpy.story.create_plan import plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.events import Report
    from vzpy.model import IdRange
    from vzpy.node import Node
    from vzpy.story.create_plan import Plan
    from vzpy.unpack import Progress

# Places, names and ids are this node's; OSTEMPLATE names a cache of this node, as far as there is.
_NOT_TAKEN = {"VE_ROOT", "VE_PRIVATE", "TEMPLATE", "LOCAL_UID", "LOCAL_GID", "VEID", "NAME",
              "CONFIGFILE"}  # fmt: skip
# What gives something of the host.
_GRANTS = {"CAPABILITY", "NETDEV", "DEVICES", "DEVNODES", "PCI", "MOUNT_OPTS"}
_ON_HOST = ("mount", "umount", "premount", "postumount")
_MOST = 1 << 20  # bytes of a configuration or script


def restore(
    node: Node,
    archive: str,
    ctid: int,
    report: Report,
    *,
    force: bool = False,
    trust: bool = False,
    progress: Progress | None = None,
) -> None:
    """Make VPS `ctid` of an archive; its lock is the caller's matter.

    force  a VPS of that number, which may not run, is destroyed first
    trust  host scripts, devices, capabilities and the like are taken too
    Whatever goes wrong leaves nothing. Raises VzError: 44 there is such a VPS, 32, 46, 47, and
    what create() raises."""
    create.recover(node, ctid)
    settings = Settings(archive, trust)
    _refuse(node, settings, ctid, force, report)
    scratch = f"{node.paths.conf}/{ctid}.conf.restoring"
    try:
        with open(scratch, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(settings.text(node, ctid, report))
        asked = settings.asked(node, report)
        create.make(
            node,
            ctid,
            lambda: plan(node, ctid, asked, None, report, scratch),
            lambda planned, ids: _fill(planned, archive, planned.scratch, ids, report, progress),
            report,
            restored=True,
        )
        settings.scripts(node, ctid, report)
    finally:
        try:
            os.unlink(scratch)
        except FileNotFoundError:
            pass
    report(RestoredFrom(ctid=ctid, archive=archive))


def _refuse(node: Node, settings: Settings, ctid: int, force: bool, report: Report) -> None:
    vps = node.vps(ctid)
    places = (vps.conf_path, vps.config.raw("VE_PRIVATE"), vps.config.raw("VE_ROOT"))
    found = [path for path in places if path and os.path.lexists(path)]
    if not found:
        return
    if not force:
        raise VzError(f"Unable to restore container {ctid}: {found[0]} exists",
                      Exit.FS_PRVT_AREA_EXIST, hint="--force destroys it first.")
    from vzpy.story.destroy import destroy

    if vps.config.exists:
        if not os.path.isdir(settings.archive):
            unpack.check(settings.archive, settings.ids)  # one that is cut short costs no VPS
        destroy(vps, report)


class Settings:
    """What an archive says beside its files."""

    def __init__(self, archive: str, trust: bool) -> None:
        """Raises VzError 47 when it holds none, or is no archive."""
        self.archive, self.trust = archive, trust
        wanted = {f"{backup.FOLDER}/vps.{name}" for name in ("conf", *backup.SCRIPTS)}
        if os.path.isdir(archive):
            self._found = _read_files(f"{archive}/{backup.TREE}", wanted)
        else:
            self._found = unpack.read_members(archive, wanted, _MOST)
        self._conf = self._found.get(f"{backup.FOLDER}/vps.conf")
        if self._conf is None:
            raise VzError(f"{archive} holds no {backup.FOLDER}/vps.conf: it is not of vzdump",
                          Exit.FS_BAD_TMPL)
        self._layer = config.Layer(f"{archive}:vps.conf", os.fsdecode(self._conf))

    @property
    def ids(self) -> IdRange:
        """Of its files. Raises ValueInvalid (21)."""
        from vzpy.ids import count_of
        from vzpy.model import IdRange

        return IdRange(0, count_of(self._layer.entries.get("LOCAL_IDS", ("", 0))[0]))

    def text(self, node: Node, ctid: int, report: Report) -> str:
        """N.conf, each line written by us."""
        lines, refused = [], []
        for key, (text, number) in self._layer.entries.items():
            param = params.BY_KEY.get(key)
            if param is None or param.scope == params.GLOBAL or key in _NOT_TAKEN:
                continue
            if key in _GRANTS and not self.trust:
                refused.append(key)
                continue
            try:
                values.parse(param.kind, text)
            except values.Invalid:
                report(Warned(text=f"Warning at {self._layer.path}:{number}:"
                                   f' invalid value for {key} ("{text}"), skipped'))  # fmt: skip
                continue
            if "\n" not in text:
                lines.append(config.line_of(key, text))
        if refused:
            report(Warned(text=f"Warning: left out, since they give something of the host:"
                               f" {', '.join(refused)} (--trust takes them)"))  # fmt: skip
        return "\n".join([*lines, ""])

    def asked(self, node: Node, report: Report) -> dict[str, str]:
        """What has to be decided here: the layout, and the second name where it is free."""
        chosen = {"VE_LAYOUT": self._layout(node, report)}
        name = self._layer.entries.get("NAME", ("", 0))[0]
        if name and os.path.lexists(f"{node.paths.names}/{name}"):
            report(Warned(text=f"Warning: the name {name} is taken, restored without it"))
        elif name:
            try:
                chosen["NAME"] = values.parse("name", name)
            except values.Invalid:
                report(Warned(text=f"Warning: the name {name!r} cannot be used"))
        return chosen

    def _layout(self, node: Node, report: Report) -> str:
        layout = self._layer.entries.get("VE_LAYOUT", ("simfs", 0))[0]
        if layout.startswith(("image", "ploop")):
            return layout
        if layout != "overlay":
            return "simfs"
        folder = node.config.raw("TEMPLATE") or ""
        wanted = self._layer.entries.get("OSTEMPLATE", ("", 0))[0]
        if wanted and template.cached(folder, template.resolve_name(folder, wanted)):
            return layout
        report(Warned(text=f"Warning: restored as layout simfs: there is no cache of the OS"
                           f" template {wanted!r} to share"))  # fmt: skip
        return "simfs"

    def scripts(self, node: Node, ctid: int, report: Report) -> None:
        """Action scripts; those that run on the host are set aside unless trusted."""
        for name in backup.SCRIPTS:
            data = self._found.get(f"{backup.FOLDER}/vps.{name}")
            if data is None:
                continue
            path = f"{node.paths.conf}/{ctid}.{name}"
            if name in _ON_HOST and not self.trust:
                path += ".restored"
                report(Warned(text=f"Warning: {path} would run on the host: rename it when it is"
                                   " what you want"))  # fmt: skip
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o755)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)


def _read_files(top: str, wanted: set[str]) -> dict[str, bytes]:
    """The bytes of some regular files below a directory."""
    found = {}
    try:
        root = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as err:
        raise VzError.of("Unable to read the copy", err, Exit.FS_BAD_TMPL) from None
    try:
        for name in wanted:
            try:
                fd = m.openat2(root, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue
            with open(fd, "rb") as file:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    found[name] = file.read(_MOST)
    finally:
        os.close(root)
    return found


def _fill(
    planned: Plan,
    archive: str,
    area: str,
    ids: IdRange,
    report: Report,
    progress: Progress | None,
) -> None:
    if planned.layout == "image":
        _fill_image(planned, archive, area, progress)
        return
    if planned.layout == "overlay":
        _fill_overlay(planned, archive, area, ids, report, progress)
        return
    _unpack(archive, area, ids, progress)


def _unpack(archive: str, root: str, ids: IdRange, progress: Progress | None) -> None:
    try:
        if os.path.isdir(archive):
            _copy(f"{archive}/{backup.TREE}", root, ids, progress)
        else:
            unpack.unpack(archive, root, ids, progress)
    except VzError as err:
        if err.code == Exit.FS_BAD_TMPL:
            err.hint = "What was unpacked is removed."
        raise
    if os.stat(root).st_uid == 0 and ids.base:  # an archive without an entry for its top
        os.chown(root, ids.base, ids.base)
        os.chmod(root, 0o755)
    _drop_settings(root)


def _copy(tree: str, root: str, ids: IdRange, progress: Progress | None) -> None:
    """Of a dump that is no archive but a directory."""
    from vzpy import statecopy
    from vzpy.model import IdRange
    from vzpy.story import moving

    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    source, target = os.open(tree, flags), os.open(root, flags)
    try:
        total = statecopy.measure(source) if progress else 0
        moving.copy(source, target, IdRange(0, ids.count), ids, progress, total)
    except OSError as err:
        if err.errno == errno.EOVERFLOW:
            text = f"{tree}/{err.filename} belongs to nobody of a VPS"
            raise VzError(text, Exit.FS_BAD_TMPL) from None
        raise
    finally:
        os.close(target)
        os.close(source)


def _fill_overlay(
    planned: Plan,
    archive: str,
    area: str,
    ids: IdRange,
    report: Report,
    progress: Progress | None,
) -> None:
    """All of it as the upper layer, and out of that what the template has too."""
    from vzpy.model import IdRange
    from vzpy.story import thinning
    from vzpy.story.area import Area

    tree = template.ensure_tree(planned.template_dir, planned.template, report, progress)
    os.close(Area(area, "overlay", ids).begin(tree=tree))
    _unpack(archive, f"{area}/upper", ids, progress)
    thinning.thin(f"{area}/upper", tree, IdRange(0, ids.count), ids)


def _fill_image(planned: Plan, archive: str, area: str, progress: Progress | None) -> None:
    """Mounted in the area for a moment; a create that was killed is unmounted by its recover()."""
    from vzpy import image
    from vzpy.model import IdRange

    assert planned.disk
    target = f"{area}/mnt"
    os.mkdir(target, 0o700)
    root = image.new(image.path_of(area), planned.disk)
    try:
        m.move_mount(root, target)
    finally:
        os.close(root)
    try:
        _unpack(archive, target, IdRange(0), progress)
    finally:
        m.umount2(target, m.UMOUNT_NOFOLLOW)
    os.rmdir(target)


def _drop_settings(root: str) -> None:
    """etc/vzdump is the archive's, not the VPS's."""
    above, name = os.path.split(backup.FOLDER)
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        folder = m.openat2(top, above, os.O_PATH | os.O_DIRECTORY)
        try:
            about = os.stat(folder)
            vztmp.remove(f"/proc/self/fd/{folder}/{name}")
            os.utime(f"/proc/self/fd/{folder}", ns=(about.st_atime_ns, about.st_mtime_ns))
        finally:
            os.close(folder)
    except OSError as err:
        if err.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
    finally:
        os.close(top)
