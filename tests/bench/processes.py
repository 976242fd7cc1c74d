"""Processor time and memory of processes, from /proc: Linux only."""

import os
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_USER_TIME, _CHILDREN_USER_TIME = 11, 13
"""Fields of /proc/PID/stat counted from the one behind the name (proc(5): utime is 14, stime follows; cutime 16)."""


def cpu_seconds(pid: int) -> float:
    """User and system time of one process with all its threads, in steps of 10 ms; 0 if it is gone."""
    return _times(pid, _USER_TIME)


def cpu_seconds_of_postgres(postmaster: int) -> float:
    """User and system time of a whole server: postmaster, backends, workers, and whatever of these has ended.

    The postmaster waits for each child, and so inherits its time. One that ends while we look would be missed or
    counted twice, so we look again until the same processes were there before and after.
    """
    while True:
        children = _children(postmaster)
        total = sum(cpu_seconds(pid) for pid in (postmaster, *children)) + _times(postmaster, _CHILDREN_USER_TIME)
        if _children(postmaster) == children:
            return total


def cpu_seconds_of_this() -> float:
    """User and system time of this process and of those it started and has waited for."""
    return sum(os.times()[:4])


def cpu_seconds_of_machine() -> float:
    """All processor time that was used on this machine, or taken from it by its host."""
    user, nice, system, _idle, _waiting, *interrupts_and_stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(interrupts_and_stolen)) / _TICKS_PER_SECOND


def peak_memory_mib(pid: int) -> float:
    """The most memory the process ever had resident, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no memory")


def _children(pid: int) -> list[int]:
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _times(pid: int, first: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return (int(fields[first]) + int(fields[first + 1])) / _TICKS_PER_SECOND
