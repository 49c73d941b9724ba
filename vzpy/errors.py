"""Errors, each with the exit code that scripts made for OpenVZ expect (vzctl(8), EXIT STATUS)."""

from __future__ import annotations

import os


class Exit:
    """Exit codes of vzctl, by their names in OpenVZ's vzerror.h."""

    OK = 0
    SETUBC = 1
    SETFSHD = 2
    SYSTEM = 3
    BAD_KERNEL = 5
    RESOURCE = 6
    ENVCREATE = 7
    COMMAND_EXECUTION = 8
    LOCKED = 9
    NOCONFIG = 10
    NOSCRIPT = 11
    NO_ACCESS = 12
    SET_CAP = 13
    NOVECONFIG = 14
    EXEC_TIMEOUT = 15
    CHKPNT = 16
    RESTORE = 17
    SETLUID = 18
    INVALID_PARAMETER_SYNTAX = 20
    INVALID_PARAMETER_VALUE = 21
    VE_ROOT_NOTSET = 22
    VE_PRIVATE_NOTSET = 23
    VE_TMPL_NOTSET = 24
    NOTENOUGHPARAMS = 27
    NOTENOUGHUBCPARAMS = 28
    VE_OSTEMPLATE_NOTSET = 29
    VE_NOT_RUNNING = 31
    VE_RUNNING = 32
    STOP = 33
    CANT_ADDIP = 34
    VALIDATE = 35
    OVERCOMMIT = 36
    FS_NOT_MOUNTED = 40
    FS_MOUNTED = 41
    FS_NOPRVT = 43
    FS_PRVT_AREA_EXIST = 44
    FS_NO_DISK_SPACE = 46
    FS_BAD_TMPL = 47
    FS_NEW_VE_PRVT = 48
    FS_MPOINTCREATE = 49
    FS_CANTMOUNT = 50
    FS_CANTUMOUNT = 51
    FS_DEL_PRVT = 52
    CANT_CREATE_DIR = 54
    DQ_ON = 60
    DQ_INIT = 61
    DQ_SET = 62
    DISKSPACE_NOT_SET = 63
    DISKINODES_NOT_SET = 64
    DQ_OFF = 66
    DQ_UGID_NOTINITIALIZED = 67
    BADHOSTNAME = 70
    BADIP = 71
    BADDNSSRV = 72
    BADDNSSEARCH = 73
    CHANGEPASS = 74
    VE_LCKDIR_NOTSET = 77
    IP_INUSE = 78
    ACTIONSCRIPT = 79
    CP_CONFIG = 82
    INVALID_CONFIG = 85
    SET_DEVICES = 86
    OSTEMPLATE_NOT_FOUND = 91
    PLOOP_UNSUP = 99
    GET_IP = 100
    NETDEV = 104
    VE_START_DISABLED = 105
    SET_IPTABLES = 106
    NO_DISTR_CONF = 107
    NO_DISTR_ACTION_SCRIPT = 108
    APPLY_CONFIG = 109
    VETH = 130
    SET_NAME = 131
    WAIT_FAILED = 133
    CONFIG_SAVE = 139
    SET_IO = 148
    IMAGE_NOT_FOUND = 150
    IMAGE_CREATE = 151
    IMAGE_MOUNT = 152
    IMAGE_RESIZE = 154
    CONVERT = 155
    COMPACT = 166
    CREATE_SNAPSHOT = 156
    DELETE_SNAPSHOT = 158
    SWITCH_SNAPSHOT = 159
    MOUNT_SNAPSHOT = 160
    UMOUNT_SNAPSHOT = 161
    LIST_SNAPSHOT = 167


class VzError(Exception):
    """A failure that a user can understand.

    code   the exit code of the contract tools (Exit)
    step   where in the story it happened, e.g. "mount-root"; "" when it has no story
    errno  the kernel's word for it, 0 when there is none
    hint   what to do next, one sentence, "" when there is nothing to add
    stdout the contract wants this text on standard output (destroy's refusals)"""

    code = Exit.SYSTEM
    stdout = False

    def __init__(
        self,
        message: str,
        code: int | None = None,
        *,
        step: str = "",
        errno: int = 0,
        hint: str = "",
        stdout: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.step = step
        self.errno = errno
        self.hint = hint
        if stdout:
            self.stdout = True

    @classmethod
    def of(
        cls, what: str, err: OSError, code: int | None = None, *, step: str = "", hint: str = ""
    ) -> VzError:
        """The same failure in a user's words: WHAT: [path:] strerror."""
        where = f"{os.fsdecode(err.filename)}: " if err.filename else ""
        text = err.strerror or str(err)
        return cls(f"{what}: {where}{text}", code, errno=err.errno or 0, step=step, hint=hint)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(VzError):
    """The command line is wrong in form."""

    code = Exit.INVALID_PARAMETER_SYNTAX


class ValueInvalid(VzError):
    """A value is wrong."""

    code = Exit.INVALID_PARAMETER_VALUE


class ConfigError(VzError):
    """A configuration file is missing or cannot be used."""

    code = Exit.NOCONFIG


class NoSuchVPS(VzError):
    """No N.conf."""

    code = Exit.NOVECONFIG

    def __init__(self, message: str = "Container config file does not exist") -> None:
        super().__init__(message)


class Locked(VzError):
    """Another process works on this VPS."""

    code = Exit.LOCKED


class NotRunning(VzError):
    code = Exit.VE_NOT_RUNNING

    def __init__(self, message: str = "Container is not running") -> None:
        super().__init__(message)


class AlreadyRunning(VzError):
    code = Exit.VE_RUNNING

    def __init__(
        self, message: str = "Container is already running", *, stdout: bool = False
    ) -> None:
        super().__init__(message, stdout=stdout)
