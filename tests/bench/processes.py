"""CPU time and memory of processes, read from /proc (Linux only)."""

import os
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_USER_TIME, _CHILDREN_USER_TIME = 11, 13
"""Fields of /proc/PID/stat counted from the first after the name (proc(5): utime is 14, stime follows; cutime is 16)."""


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process with its threads, in steps of 10 ms; 0 if it has ended."""
    return _times(pid, _USER_TIME)


def cpu_seconds_of_postgres(postmaster: int) -> float:
    """Return the user and system time of a whole server: the postmaster, its children, and children that have ended.

    The postmaster inherits the time of each child that it has waited for. A child that ends during the measurement would be
    missed or counted twice, so it is repeated until the set of children is the same before and after.
    """
    while True:
        children = _children(postmaster)
        total = sum(cpu_seconds(pid) for pid in (postmaster, *children)) + _times(postmaster, _CHILDREN_USER_TIME)
        if _children(postmaster) == children:
            return total


def cpu_seconds_of_this() -> float:
    """Return the user and system time of this process and of the children that it has waited for."""
    return sum(os.times()[:4])


def cpu_seconds_of_machine() -> float:
    """Return the CPU time used on this machine or stolen by its host, in seconds."""
    user, nice, system, _idle, _waiting, *interrupts_and_stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(interrupts_and_stolen)) / _TICKS_PER_SECOND


def peak_memory_mib(pid: int) -> float:
    """Return the peak resident memory of the process, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no memory: it has ended")


def _children(pid: int) -> list[int]:
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _times(pid: int, first: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return (int(fields[first]) + int(fields[first + 1])) / _TICKS_PER_SECOND
