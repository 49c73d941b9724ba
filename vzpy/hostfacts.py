"""What this machine has: memory, swap, threads, speed; for the planning tools."""

from __future__ import annotations

from vzpy.model import Host


def facts() -> Host:
    """Raises OSError when /proc cannot be read."""
    import psutil

    ram = psutil.virtual_memory().total
    return Host(
        ram=ram,
        swap=psutil.swap_memory().total,
        low=_low_memory() or ram,
        threads=_number("/proc/sys/kernel/threads-max"),
        bogomips=_bogomips(),
    )


def _low_memory() -> int:
    """LowTotal of /proc/meminfo in bytes, 0 where all memory is the same."""
    with open("/proc/meminfo") as f:
        found = (line.split() for line in f if line.startswith("LowTotal:"))
        return next((int(words[1]) << 10 for words in found), 0)


def _bogomips() -> float:
    """As /proc/cpuinfo of x86 has it (`bogomips`), and that of ARM (`BogoMIPS`)."""
    total = 0.0
    with open("/proc/cpuinfo") as f:
        for line in f:
            name, _, value = line.partition(":")
            if name.strip().lower() == "bogomips":
                total += float(value)
    return total


def _number(path: str) -> int:
    with open(path) as f:
        return int(f.read())
