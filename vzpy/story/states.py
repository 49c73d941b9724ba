"""What a snapshot is made of, by layout. Each is a folder or file `layers/ID` that nobody writes
to again:

overlay   layers of overlayfs. Of a stopped VPS the upper layer itself becomes one, and an empty
          one is put above it; a running VPS's upper is copied, since the layers of a mounted
          overlay cannot be exchanged
simfs     a copy of the whole root
image     a copy of the image

Copies share their data by reflink where the file system can. Hard links would be no copies: a
guest writes into its files in place."""

from __future__ import annotations

import errno
import os

from vzpy import layers, ns, rootfs, statecopy, template, vztmp
from vzpy.fault import fault
from vzpy.kernel import mount as m
from vzpy.model import IdRange
from vzpy.record import record
from vzpy.story import counting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vzpy.snapshots import Snapshot
    from vzpy.statecopy import Progress
    from vzpy.vps import VPS

# Layers on the template's tree. Their names have to fit into 255 bytes (fsconfig(2)), and every
# one costs at each look-up.
DEEPEST = 10
STEPS = ("draft", "copy", "merge")
# What takes the place of the present state, and what that was.
NEW, GONE = ".new", ".gone"
_DRAFT = ".draft"
_VIEW = m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV


@record
class Change:
    """What a new state costs: renames in this order, the layers below upper from then on (None:
    as they are), and the layers of the snapshot. copied: what is named there was made, or written
    by the guest, just now: it has to be on the disk first."""

    moves: tuple[tuple[str, str], ...] = ()
    stack: tuple[str, ...] | None = None
    layers: tuple[str, ...] = ()
    copied: bool = False


def of(vps: VPS) -> States:
    kinds = {"overlay": Overlay, "simfs": Simfs}
    if vps.layout not in kinds:
        from vzpy.story.imagestates import Image

        return Image(vps)
    return kinds[vps.layout](vps)


def new_id() -> str:
    return os.urandom(8).hex()


class States:
    """The states of one VPS on the disk."""

    def __init__(self, vps: VPS) -> None:
        self.vps = vps
        # VE_PRIVATE may be a link of the administrator's
        self.private = os.path.realpath(vps.private)
        self.store = self.private

    @property
    def folder(self) -> str:
        return f"{self.store}/layers"

    def prepare(self) -> None:
        """The folder of the layers; its owner tells whose ids are in it (owner.py)."""
        if not os.path.isdir(self.folder):
            os.makedirs(self.store, 0o700, exist_ok=True)
            os.mkdir(self.folder, 0o700)
            base = self.vps.ids.base
            os.chown(self.folder, base, base)
            counting.put(self.folder, 0)

    def stack(self) -> tuple[str, ...]:
        """The layers that the present state stands on."""
        return ()

    def draft(self, ident: str, progress: Progress | None) -> statecopy.Copy | None:
        """What take() will copy, copied while the VPS still runs: then it stands still only for
        what changes from now on."""
        return None

    def take(
        self,
        ident: str,
        in_use: bool,
        progress: Progress | None,
        draft: statecopy.Copy | None = None,
    ) -> Change:
        """Keep the present state. Raises OSError."""
        raise NotImplementedError

    def present(self) -> int:
        """A read-only, detached mount of the present state, which may be in use."""
        raise NotImplementedError

    @property
    def seen(self) -> IdRange:
        """The ids of the VPS as view() and present() show them."""
        return IdRange(0, self.vps.ids.count)

    def back(self, snapshot: Snapshot, ident: str, progress: Progress | None) -> Change:
        """Put a kept state in the place of the present one, which is given up."""
        raise NotImplementedError

    def view(self, names: tuple[str, ...], mark: str) -> int:
        """A read-only, detached mount of a kept state; `mark` is its source where it can be."""
        raise NotImplementedError

    def spare(self, stacks: list[tuple[str, ...]]) -> tuple[str, ...]:
        """Layers, the topmost first, that may become one: they are never seen apart.

        stacks  of all snapshots"""
        return ()

    def merge(self, names: tuple[str, ...]) -> tuple[dict[str, str], Change]:
        """Make one of what spare() has named; nothing of the VPS may be mounted.

        Returns layer -> what stands in for it, "" for nothing, and what is to be done."""
        raise NotImplementedError

    def collect(self, used: set[str]) -> None:
        """Remove what is no layer in use: given up, or of a tool that was killed."""
        used |= {*self.stack(), "stack"}
        try:
            names = set(os.listdir(self.folder))
        except FileNotFoundError:
            return
        for name in names - used:
            fault("collect")
            vztmp.remove(f"{self.folder}/{name}")

    def _copy(
        self,
        source: int | str,
        name: str,
        progress: Progress | None,
        draft: statecopy.Copy | None = None,
    ) -> statecopy.Copy:
        """A tree as `layers/NAME`."""
        path = f"{self.folder}/{name}"
        if name.endswith(NEW):
            counting.mkdir_in_place_of(self.private, path)
        else:
            os.mkdir(path, 0o700)
        total = statecopy.measure(source) if progress else 0
        copy = statecopy.Copy(progress, total, draft, draft=name.endswith(_DRAFT))
        copy.tree(source, path)
        return copy

    def _draft(
        self, source: int | str, ident: str, progress: Progress | None
    ) -> statecopy.Copy | None:
        """None when the guest moves things faster than they are copied."""
        fault("draft")
        statecopy.settle(source)
        try:
            return self._copy(source, f"{ident}{_DRAFT}", progress)
        except OSError as err:
            if err.errno not in (errno.ESTALE, errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return None


class Overlay(States):
    @property
    def upper(self) -> str:
        return f"{self.private}/upper"

    def stack(self) -> tuple[str, ...]:
        return tuple(os.path.basename(path) for path in rootfs.layers_of(self.private))

    def draft(self, ident: str, progress: Progress | None) -> statecopy.Copy | None:
        return self._draft(self.upper, ident, progress)

    def take(
        self,
        ident: str,
        in_use: bool,
        progress: Progress | None,
        draft: statecopy.Copy | None = None,
    ) -> Change:
        kept = (ident, *self._shallow(self.stack()))
        if in_use:
            fault("copy")
            self._copy(self.upper, ident, progress, draft)
            return Change(layers=kept, copied=True)
        new = self._empty_upper(ident, self.upper)
        moves = ((self.upper, f"{self.folder}/{ident}"), (new, self.upper))
        return Change(moves, kept, kept, copied=True)

    def present(self) -> int:
        if not rootfs.is_mounted(self.vps.root):
            return self.view(("upper", *self.stack()), "vz")
        tree = m.open_tree(self.vps.root, m.OPEN_TREE_CLONE)
        m.mount_setattr(tree, _VIEW, propagation=m.MS_PRIVATE)
        return tree

    @property
    def seen(self) -> IdRange:
        return self.vps.ids

    def _shallow(self, below: tuple[str, ...]) -> tuple[str, ...]:
        """The same in one layer, when there are too many to put one more above."""
        if len(below) < DEEPEST:
            return below
        return (self._merge(below),)

    def _merge(self, names: tuple[str, ...], ident: str = "") -> str:
        fault("merge")
        ident = ident or new_id()
        if {"upper", *self.stack()} & set(names):
            counting.mkdir_in(self.private, f"{self.folder}/{ident}")
        else:
            os.mkdir(f"{self.folder}/{ident}", 0o700)
        layers.merge([self._path(name) for name in names], f"{self.folder}/{ident}")
        return ident

    def _path(self, name: str) -> str:
        return self.upper if name == "upper" else f"{self.folder}/{name}"

    def _empty_upper(self, ident: str, like: str) -> str:
        """An upper layer with nothing in it but what "/" itself looks like."""
        path = f"{self.folder}/{ident}{NEW}"
        counting.mkdir_in(self.private, path)
        statecopy.copy_attributes(like, path, os.stat(like), follow=True)
        for name in os.listxattr(path):
            if name.startswith("trusted.overlay."):
                os.removexattr(path, name)
        return path

    def back(self, snapshot: Snapshot, ident: str, progress: Progress | None) -> Change:
        new = self._empty_upper(ident, f"{self.folder}/{snapshot.layers[0]}")
        gone = f"{self.folder}/{ident}{GONE}"
        self._recount(self.stack(), snapshot.layers)
        return Change(((self.upper, gone), (new, self.upper)), snapshot.layers)

    def _recount(self, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        """The quota of the VPS counts the layers that it sees, and no others."""
        if project := counting.project_of(self.private):
            for name in set(before) ^ set(after):
                counting.put_tree(f"{self.folder}/{name}", project if name in after else 0)

    def view(self, names: tuple[str, ...], mark: str) -> int:
        holder = ns.idmap_userns(self.vps.ids.map_text())
        try:
            return rootfs.stacked(
                template.tree_of(self.private),
                self.private,
                holder,
                [self._path(name) for name in names],
                _VIEW,
                mark,
            )
        finally:
            os.close(holder)

    def spare(self, stacks: list[tuple[str, ...]]) -> tuple[str, ...]:
        """What only the present state stands on goes into upper."""
        present = self.stack()
        in_snapshots = {name for stack in stacks for name in stack}
        alone = 0
        while alone < len(present) and present[alone] not in in_snapshots:
            alone += 1
        if alone:
            return ("upper", *present[:alone])
        for stack in stacks:
            for pair in zip(stack, stack[1:]):
                if all(_together(other, *pair) for other in (*stacks, present)):
                    return pair
        return ()

    def merge(self, names: tuple[str, ...]) -> tuple[dict[str, str], Change]:
        ident, present = new_id(), self.stack()
        if names[0] == "upper":
            self._merge(names, f"{ident}{NEW}")
            moves = ((self.upper, f"{self.folder}/{ident}{GONE}"),
                     (f"{self.folder}/{ident}{NEW}", self.upper))
            return {}, Change(moves, present[len(names) - 1 :], copied=True)
        self._merge(names, ident)
        instead = {**dict.fromkeys(names, ""), names[0]: ident}
        return instead, Change(stack=replaced(present, instead), copied=True)


def _together(stack: tuple[str, ...], above: str, below: str) -> bool:
    """Both, one on the other, or neither."""
    if above in stack:
        return stack[stack.index(above) + 1 :][:1] == (below,)
    return below not in stack


def replaced(stack: tuple[str, ...], instead: dict[str, str]) -> tuple[str, ...]:
    return tuple(new for name in stack if (new := instead.get(name, name)))


class Simfs(States):
    """VE_PRIVATE is the guest's root: what is ours lies beside it."""

    def __init__(self, vps: VPS) -> None:
        super().__init__(vps)
        self.store = store_of_simfs(self.private)

    def _tree(self) -> int:
        """Of VE_PRIVATE what lies there itself, not what a host mounted in it."""
        return m.open_tree(self.private, m.OPEN_TREE_CLONE)

    def draft(self, ident: str, progress: Progress | None) -> statecopy.Copy | None:
        tree = self._tree()
        try:
            return self._draft(tree, ident, progress)
        finally:
            os.close(tree)

    def take(
        self,
        ident: str,
        in_use: bool,
        progress: Progress | None,
        draft: statecopy.Copy | None = None,
    ) -> Change:
        fault("copy")
        tree = self._tree()
        try:
            self._copy(tree, ident, progress, draft)
        finally:
            os.close(tree)
        return Change(layers=(ident,), copied=True)

    def back(self, snapshot: Snapshot, ident: str, progress: Progress | None) -> Change:
        if self.private in rootfs.mounts_below(self.private):
            raise OSError(errno.EBUSY, "is a mount point: nothing can take its place", self.private)
        fault("copy")
        self._copy(f"{self.folder}/{snapshot.layers[0]}", f"{ident}{NEW}", progress)
        gone, new = f"{self.folder}/{ident}{GONE}", f"{self.folder}/{ident}{NEW}"
        return Change(((self.private, gone), (new, self.private)), copied=True)

    def view(self, names: tuple[str, ...], mark: str) -> int:
        return self._view(f"{self.folder}/{names[0]}")

    def present(self) -> int:
        return self._view(self.private)

    def _view(self, path: str) -> int:
        own = self.vps.ids
        holder = ns.idmap_userns(b"%d 0 %d\n" % (own.base, own.count))
        tree = m.open_tree(path, m.OPEN_TREE_CLONE)
        try:
            m.mount_setattr(tree, m.MOUNT_ATTR_IDMAP | _VIEW, userns=holder,
                            propagation=m.MS_PRIVATE)
        except BaseException:
            os.close(tree)
            raise
        finally:
            os.close(holder)
        return tree


def store_of_simfs(private: str) -> str:
    return f"{os.path.realpath(private)}.snapshots"
