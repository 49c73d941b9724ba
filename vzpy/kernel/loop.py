"""Loop devices (loop(4)), without losetup(8).

A device detaches itself with its last user (LO_FLAGS_AUTOCLEAR), so one that was attached by a
process which was killed is gone with it. The device holds the very open file that it was given,
and the flock(2) on that: no file can be on two devices, and no tool that asks for the lock works
on one that is in use."""

from __future__ import annotations

import _struct as struct
import fcntl
import os
import time
from errno import EBUSY, EINVAL, ENXIO

_LOOP_SET_CAPACITY = 0x4C07
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_LO_FLAGS_AUTOCLEAR = 4
_LO_FLAGS_DIRECT_IO = 16
_MAJOR = 7
# struct loop_config: fd, block_size, struct loop_info64 with lo_flags at 52, 64 bytes reserved
_INFO_FLAGS, _INFO_SIZE, _RESERVED = 52, 232, 64
_GET_FREE_TRIES = 64
BLOCK = 4096  # logical block of the devices: direct I/O then works on any disk


def lock(path: str, patience: float = 0.0) -> int:
    """Open a backing file for reading and writing, and lock it: nobody else has it on a device.

    patience  seconds to wait for a device that is on its way out
    Raises OSError EBUSY."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(fd)
                raise OSError(EBUSY, "is in use", path) from None
            time.sleep(0.01)


def attach(file: int) -> int:
    """Put an opened file on a free device: a descriptor, and the device goes with the last one.

    Direct I/O is used where the file system of the file takes it. Raises OSError."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_GET_FREE_TRIES):
            device = _open(fcntl.ioctl(control, _LOOP_CTL_GET_FREE))
            try:
                _configure(device, file)
                return device
            except OSError as err:
                os.close(device)
                if err.errno != EBUSY:  # somebody else was quicker
                    raise
    finally:
        os.close(control)
    raise OSError(EBUSY, "no free loop device")


def _configure(device: int, file: int) -> None:
    for flags in (_LO_FLAGS_AUTOCLEAR | _LO_FLAGS_DIRECT_IO, _LO_FLAGS_AUTOCLEAR):
        info = bytearray(_INFO_SIZE)
        struct.pack_into("=I", info, _INFO_FLAGS, flags)
        try:
            config = struct.pack("=II", file, BLOCK) + info + bytes(_RESERVED)
            fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            return
        except OSError as err:
            if err.errno != EINVAL or not flags & _LO_FLAGS_DIRECT_IO:
                raise


def _open(number: int) -> int:
    path = f"/dev/loop{number}"
    if not os.path.exists(path):  # a /dev that is not devtmpfs
        os.mknod(path, 0o060600, os.makedev(_MAJOR, number))
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def path_of(device: int) -> str:
    return f"/dev/loop{os.minor(os.fstat(device).st_rdev)}"


def carrying(path: str) -> int:
    """A descriptor of the device that has a file on it. Raises OSError ENXIO when none has."""
    real = os.path.realpath(path)
    for name in os.listdir("/sys/block"):
        if not name.startswith("loop"):
            continue
        try:
            with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8",
                      errors="surrogateescape") as file:
                if file.read().rstrip("\n") == real:
                    return _open(int(name[4:]))
        except OSError:
            pass  # it has none, or goes this moment
    raise OSError(ENXIO, "is on no loop device", path)


def below(path: str) -> int:
    """A descriptor of the device that the file system of a path lies on.

    Raises OSError ENXIO when that is no loop device."""
    device = os.stat(path).st_dev
    if os.major(device) != _MAJOR:
        raise OSError(ENXIO, "is on no loop device", path)
    return _open(os.minor(device))


def refresh_size(device: int) -> None:
    """The file has grown: so does the device."""
    fcntl.ioctl(device, _LOOP_SET_CAPACITY)
