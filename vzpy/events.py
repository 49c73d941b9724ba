"""What an operation reports while it runs, and the one table of what each event says.

A story calls `report(Mounted())`; the library's user gets the object, the command line the text
(vzctl-cli 1.2): level < 0 goes to stderr, 0 to stdout, above 0 only with as many --verbose."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ERROR, NORMAL, DEBUG, TRACE = -1, 0, 1, 2


class Event:
    """One thing that happened; its text is the class's template filled with the fields given."""

    text = ""
    level = NORMAL

    def __init__(self, **fields: object) -> None:
        self.fields = fields

    def __getattr__(self, name: str) -> object:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        return self.text.format(**self.fields)

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in self.fields.items())
        return f"{type(self).__name__}({given})"


if TYPE_CHECKING:
    Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """The report of a caller who does not want to know."""


_TABLE: dict[int, dict[str, str]] = {
    NORMAL: {
        # create, destroy
        "Creating": "Creating container private area ({template})",
        "PostCreate": "Performing postcreate actions",
        "Created": "Container private area was created",
        "ConfExists": "CT config file already exists, not applying a default config sample.",
        "NameAssigned": "Name {name} assigned",
        "ConfigSaved": "CT configuration saved to {path}",
        "Destroying": "Destroying container private area: {path}",
        "Destroyed": "Container private area was destroyed",
        "CreateScriptFailed": "User create script {path} exited with error",
        "BuildingTemplate": "Creating cache for {template} OS template",
        # start, stop, mount
        "Starting": "Starting container...",
        "Mounted": "Container is mounted",
        "Unmounted": "Container is unmounted",
        "CpuUnits": "Setting CPU units: {value}",
        "CpuLimit": "Setting CPU limit: {value}",
        "Cpus": "Setting CPUs: {value}",
        "CpuMask": "Setting CPU mask: {value}",
        "NodeMask": "Setting NUMA node mask: {value}",
        "Devices": "Setting devices",
        "IoLimit": "Setting iolimit: {value}",
        "IopsLimit": "Setting iopslimit: {value}",
        "Started": "Container start in progress...",
        "Waiting": "Container start in progress, waiting ...",
        "StartedFully": "Container started successfully",
        "WaitTimeout": "Container wait failed - timeout expired",
        "WaitFailed": "Container wait failed",
        "Restarting": "Restarting container",
        "Stopping": "Stopping container ...",
        "Killing": "Killing container ...",
        "Stopped": "Container was stopped",
        "CheckingImage": "Checking the file system of {path}",
        "CreatingImage": "Creating image: {path} size={kib}K",
        "InodesIgnored": "Warning: --diskinodes is ignored for ploop-based container",
        "Resized": "Image {path} has now {kib}K",
        "Compacted": "Image {path} takes {after}K, it took {before}K",
        "CopyingContent": "Copying content to {layout}...",
        "Converted": "Container was successfully converted to the {layout} layout",
        "StaleLock": "Removing stale lock file {path}",
        "Reshifting": "Changing owners in {path} to the range from {base}",
        # network
        "AddingIp": "Adding IP address(es): {addresses}",
        "DeletingIp": "Deleting IP address(es): {addresses}",
        "DeletingAllIp": "Deleting all IP address(es): {addresses}",
        "ConfiguringVeth": "Configure veth devices: {names} ",
        "DeletingVeth": "Deleting veth devices: {names} ",
        # set
        "NotSaving": "No changes in CT configuration, not saving",
        "UbSet": "UB limits were set successfully",
        "Unsaved": "WARNING: Settings were not saved to config (use --save flag)",
        "UnsavedRunning": (
            "WARNING: Settings were not saved to config and will be lost"
            " after CT restart (use --save flag)"
        ),
        "PasswordFailed": "Password change failed",
        # freeze in place
        "Checkpointing": "Setting up checkpoint...",
        "Suspending": "\tsuspend...",
        "Checkpointed": "Checkpointing completed successfully",
        "Restoring": "Restoring container ...",
        "Resuming": "\tresume...",
        "Restored": "Restoring completed successfully",
        "InitializingQuota": "Initializing quota ...",
        "QuotaOff": "Disk quota is not enabled, skipping operation",
        # snapshots
        "TakingSnapshot": "Creating snapshot {guid}",
        "Storing": "Storing {path}",
        "SnapshotCreated": "Snapshot {guid} has been successfully created",
        "SwitchingSnapshot": "Switching to snapshot {guid}",
        "Switched": "Container has been successfully switched to another snapshot",
        "DeletingSnapshot": "Deleting snapshot {guid}",
        "SnapshotDeleted": "Snapshot {guid} has been successfully deleted",
        "MountingSnapshot": "Mounting snapshot {guid} to {target}",
        "UmountingSnapshot": "Umounting snapshot {guid}",
        # vz rescue
        "Frozen": "Container stands still",
        "NotFrozen": "Container does not stand still, going on",
        "Reclaimed": (
            "Reclaimed {mib} MiB; {used} of {limit} MiB are in use, {swapped} MiB swapped"
        ),
        "NoThrashing": "Container does not thrash ({percent} % memory pressure): killing nothing",
        "MemoryRaised": "Memory raised to {mib} MiB for the moment",
        "BiggestKilled": "Killed process {pid} ({comm}) of {mib} MiB",
        "NoneToKill": "There is no process but init to kill",
        "Thawed": "Container goes on",
        "MemoryRestored": "Memory is {mib} MiB again",
        # vzdump, vzrestore
        "DumpNote": "INFO: {text}",
        "RestoredFrom": "Container {ctid} was restored from {archive}",
        # vz setup
        "Made": "Created {path}",
        "Removed": "Removed {path}",
        "Note": "{text}",
    },
    ERROR: {
        "Warned": "{text}",
        "AlreadyMounted": "Container is already mounted",
        "NotRunningToStop": "Unable to stop: container is not running",
        "NotApplied": "Warning: not applied on this node: {what}",
        "ConfMissing": "WARNING: {path} not found: No such file or directory",
        "ApplyFailed": (
            "Error: failed to apply some parameters, not saving configuration file!"
        ),
        "RestartNeeded": (
            "WARNING: Some of the parameters could not be applied to a running container.\n"
            "\tPlease consider using --setmode option"
        ),
        "NoMemoryKept": (
            "Warning: the memory of running processes is not kept, only their files"
        ),
        "DumpWarned": "WARNING: {text}",
        "DumpFailed": "ERROR: {text}",
        "ScriptFailed": "Error executing {kind} script {path}",
        "StartFailed": "Container start failed",
        "CreateFailed": "Creation of container private area failed",
    },
    DEBUG: {
        "Step": "step {name}",
        "Undone": "undo {name}",
        "Kept": "{path} is there, left as it is",
        "ReshiftProgress": "{done} of {total} owners changed",
        "HaltBy": "init is {kind}: asking it to halt by {how}, {seconds} s left",
    },
}

def __getattr__(name: str) -> type[Event]:
    """The class of an event, made when it is first asked for: of a hundred a command needs ten."""
    for level, texts in _TABLE.items():
        if name in texts:
            fields = {"text": texts[name], "level": level, "__module__": __name__}
            made: type[Event] = type(name, (Event,), fields)
            globals()[name] = made
            return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
