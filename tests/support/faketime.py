"""A different wall clock for one process, by Debian's package `faketime`; monotonic clocks are not changed."""

from pathlib import Path

_LIBRARIES = Path("/usr/lib")


def shifted(offset: str) -> dict[str, str]:
    """Return the environment variables that shift the clock of a process by a fixed offset such as "+1h" or "-5m"."""
    return {**_preloaded(), "FAKETIME": offset}


def movable(file: Path) -> dict[str, str]:
    """Return the environment variables that make the clocks of a process and its children follow `set_offset`."""
    set_offset(file, "+0s")
    return {**_preloaded(), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}


def set_offset(file: Path, offset: str) -> None:
    """Change the clocks that follow this file, at once."""
    new = file.with_suffix(".new")
    new.write_text(f"{offset}\n")
    new.chmod(0o644)
    new.rename(file)


def _preloaded() -> dict[str, str]:
    found = sorted(_LIBRARIES.glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise RuntimeError("faketime is missing: apt-get install faketime")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DISABLE_SHM": "1"}
