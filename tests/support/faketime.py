"""Another wall clock for one process, by Debian's package `faketime`; clocks that only count go on as they are."""

from pathlib import Path

_LIBRARIES = Path("/usr/lib")


def shifted(offset: str) -> dict[str, str]:
    """What in its environment shifts a process's clock from its start on, as in "+1h" or "-5m"."""
    return {**_preloaded(), "FAKETIME": offset}


def movable(file: Path) -> dict[str, str]:
    """What in its environment lets a process's clock, and its children's, follow the offset that `set_offset` gives."""
    set_offset(file, "+0s")
    return {**_preloaded(), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}


def set_offset(file: Path, offset: str) -> None:
    """Move the clocks that follow this file, at once."""
    new = file.with_suffix(".new")
    new.write_text(f"{offset}\n")
    new.chmod(0o644)
    new.rename(file)


def _preloaded() -> dict[str, str]:
    found = sorted(_LIBRARIES.glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise RuntimeError("faketime is missing: apt-get install faketime")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DISABLE_SHM": "1"}
