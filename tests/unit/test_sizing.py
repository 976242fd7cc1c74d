"""The sizing of docs/running.md follows from the code."""

import re

from service.admin.app import CONNECTIONS
from service.process import descriptors, resources
from service.settings import Settings
from service.web import limits
from service.web.server import ACCEPTED_MEANWHILE
from tests.support import docs

_RENEWALS = 1


def default(name: str) -> int:
    """The default of a setting."""
    return int(Settings.model_fields[name].default)


def row(what: str) -> tuple[str, str]:
    """The formula and the value by default in a row of the first table of sizes."""
    page = docs.text_of("docs/running.md").replace("\N{MULTIPLICATION SIGN}", "*")
    found: list[tuple[str, str]] = re.findall(rf"^\| {what} \| (.+) \| (.*) \|$", page, re.MULTILINE)
    assert len(found) == 1, what
    return found[0]


def test_the_memory_is_that_of_the_performance_page() -> None:
    ((base, each),) = re.findall(
        r"(\d+) MiB for\s+the process plus (\d+) MiB for each running export", docs.text_of("docs/performance.md")
    )
    total = int(base) + int(each) * default("export_slots")
    assert row("memory") == (f"{base} MiB + {each} MiB * `EXPORT_SLOTS`", f"{total} MiB")


def test_the_memory_under_load_is_that_of_the_limits() -> None:
    lists, buffer = limits.MAXIMUM_UNSENT // 2**20, (limits.WRITE_BUFFER + limits.PIECE) // 2**10
    total = lists + round(buffer * default("max_connections") / 1024)
    assert row("more memory under load, at most") == (
        f"{lists} MiB for large responses + {buffer} KiB * `MAX_CONNECTIONS`",
        f"{total} MiB",
    )


def test_the_database_connections_are_those_of_the_pools() -> None:
    fixed = resources._POOL_SIZE + _RENEWALS
    total = fixed + default("export_slots") + default("contacts_pool_size")
    assert row("database connections") == (f"{fixed} + `EXPORT_SLOTS` + `CONTACTS_POOL_SIZE`", str(total))


def test_the_file_descriptors_are_those_of_the_budget() -> None:
    fixed, each = ACCEPTED_MEANWHILE + descriptors._RESERVE, descriptors._RESERVE_PER_EXPORT
    admin = CONNECTIONS + ACCEPTED_MEANWHILE
    total = default("max_connections") + fixed + each * default("export_slots") + admin
    assert row("file descriptors") == (f"`MAX_CONNECTIONS` + {fixed} + {each} * `EXPORT_SLOTS` + {admin}", f"{total:,}")
