"""The command `contact-exports export` while connections break, links expire, files change and people interfere."""

import asyncio
import fcntl
import hashlib
import json
import os
import pty
import re
import select
import signal
import ssl
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
from yarl import URL

from service.client import ExportClient, ExportStatus
from tests.support.contacts import Tenant, add_contacts, add_wide_contacts, lines_of, whole_range
from tests.support.export_checks import blocked_reads, until_reading
from tests.support.program import Program, environment, running
from tests.support.receiver import authority, write_authority
from tests.support.shell import Ended, contact_exports
from tests.support.stores import StoreUnderTest
from tests.support.tcp_proxy import TcpProxy, tcp_proxy
from tests.support.waiting import until, until_row, until_true

pytestmark = pytest.mark.long

YEAR = ("export", "--from", "2024-01-01", "--to", "2024-12-31", "--tokens")


def settings_of(address: str, space: Tenant) -> dict[str, str]:
    """The environment of the command."""
    return {"CONTACT_EXPORTS_URL": address, "CONTACT_EXPORTS_API_KEY": space.key}


@asynccontextmanager
async def behind_a_proxy(
    database_url: str, store: StoreUnderTest, **settings: str
) -> AsyncIterator[tuple[Program, str, TcpProxy]]:
    """A program whose downloads pass a proxy; yields also the address for the command."""
    fixed = {"DATABASE_URL": database_url, **store.settings, **settings}
    if (endpoint := store.settings.get("S3_ENDPOINT_URL")) is not None:
        async with tcp_proxy(endpoint) as proxy, running({**fixed, "S3_PUBLIC_ENDPOINT_URL": proxy.address}) as program:
            yield program, program.address, proxy
    else:
        async with running(fixed) as program, tcp_proxy(program.address) as proxy:
            yield program, proxy.address, proxy


@asynccontextmanager
async def started(*arguments: str, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A running command. It is killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", *arguments),
        env=environment(settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ended(process: asyncio.subprocess.Process) -> Ended:
    """Wait for a command, at most a minute."""
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, output.decode(), errors.decode())


def sentence(command: Ended, code: int) -> str:
    """The last line on standard error of a command that ended with this code and without a traceback."""
    assert command.code == code, command
    assert "Traceback" not in command.errors
    return command.errors.splitlines()[-1]


def names(directory: Path) -> list[str]:
    """The names in a directory, hidden ones too."""
    return sorted(path.name for path in directory.iterdir())


# Connections ---------------------------------------------------------------------------------------------------------


async def test_a_download_that_is_cut_three_times_is_resumed_each_time_and_verified(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_wide_contacts(connection, space.space_id, 4)
    target = tmp_path / "a.ndjson.gz"
    async with behind_a_proxy(database_url, store) as (_, address, proxy):
        proxy.cuts.extend([1_000_000, 500_000, 700_000])
        command = await contact_exports(*YEAR, "-o", str(target), "--json", **settings_of(address, space))
    assert command.code == 0, command.errors
    result = json.loads(command.output)
    assert (proxy.cut, result["resumed"], result["fresh_links"]) == (3, 3, 0)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == result["sha256"]
    offsets = [int(offset.replace(",", "")) for offset in re.findall(r"continues at byte ([0-9,]+)\.", command.errors)]
    assert 0 < offsets[0] < offsets[1] < offsets[2]
    assert proxy.carried[-1] < result["file_size"] - offsets[-1] + 100_000, "what was received is not sent again"


@pytest.mark.parametrize("changed", [False, True])
async def test_without_ranges_the_received_bytes_are_received_and_compared_again(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, tmp_path: Path, changed: bool
) -> None:
    await add_wide_contacts(connection, space.space_id, 2)
    async with behind_a_proxy(database_url, files) as (_, address, proxy):
        proxy.cuts.append(1_000_000)
        proxy.hide_ranges = proxy.hold_after_cut = True
        async with started(*YEAR, "-o", str(tmp_path / "a.ndjson.gz"), "--json", **settings_of(address, space)) as process:
            await until_true(lambda: proxy.cut)
            if changed:
                (stored,) = (tmp_path / "files").rglob("*.object")
                stored.write_bytes(b"?" + stored.read_bytes()[1:])
            proxy.open.set()
            command = await ended(process)
    if changed:
        assert sentence(command, 8).startswith("The file changed during the download. It was not accepted")
    else:
        result = json.loads(command.output)
        assert hashlib.sha256((tmp_path / "a.ndjson.gz").read_bytes()).hexdigest() == result["sha256"]
        assert proxy.carried[-1] >= result["file_size"]


async def test_a_link_that_expired_during_the_download_is_replaced_by_a_fresh_one(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_wide_contacts(connection, space.space_id, 3)
    async with behind_a_proxy(database_url, store, LINK_SECONDS="4") as (program, address, proxy):
        proxy.cuts.append(1_000_000)
        proxy.hold_after_cut = True
        async with started(*YEAR, "-o", str(tmp_path / "a.csv"), "--json", **settings_of(address, space)) as process:
            await until_true(lambda: proxy.cut)
            async with ExportClient(program.address, space.key) as client, aiohttp.ClientSession() as session:
                export = await client.wait(1)
                assert export.download_url is not None
                # The host of the signature is that of the proxy, which gives no response now.
                link = URL(export.download_url, encoded=True)
                server = urlsplit(store.settings.get("S3_ENDPOINT_URL", program.address))
                direct = link.with_host(str(server.hostname)).with_port(server.port)

                async def has_expired() -> bool:
                    async with session.get(direct, headers={"Host": f"{link.host}:{link.port}"}) as response:
                        return response.status == 403

                await until(has_expired)
            proxy.open.set()
            command = await ended(process)
    result = json.loads(command.output)
    assert (result["resumed"], result["fresh_links"]) == (1, 1), command.errors
    assert "The link is refused (status 403). The download continues with a fresh one at byte " in command.errors


async def test_a_restart_of_the_service_is_waited_for(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 20)
    settings = {"DATABASE_URL": database_url, **files.settings}
    async with running(settings) as first, blocked_reads(database_url) as gate:
        address = first.address
        async with started(*YEAR, "-o", str(tmp_path / "a.ndjson.gz"), **settings_of(address, space)) as process:
            await until_reading(connection)
            await first.end()
            assert process.stderr is not None
            async with asyncio.timeout(60):
                while b"Trying again in " not in (line := await process.stderr.readline()):
                    assert line
            await gate.execute("ROLLBACK")
            async with running({**settings, "PORT": str(urlsplit(address).port)}):
                command = await ended(process)
    assert command.code == 0, command.errors
    assert len(lines_of(tmp_path / "a.ndjson.gz")) == 20


async def test_a_rate_limit_is_waited_for_and_explained(
    database_url: str, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    async with running({"DATABASE_URL": database_url, **files.settings, "RATE_LIMIT_CREATE": "1/10 seconds"}) as program:
        async with ExportClient(program.address, space.key) as client:
            await client.create(whole_range())
        command = await contact_exports(*YEAR, "-o", str(tmp_path / "a.csv"), **settings_of(program.address, space))
    assert command.code == 0
    assert "with status 429: " in command.errors
    assert " Trying again in " in command.errors


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("http://127.0.0.1:1", "127.0.0.1:1 cannot be reached (Connection refused)."),
        ("http://no-such-host.invalid", "The host name no-such-host.invalid cannot be resolved"),
        (
            "https://127.0.0.1:{tls}",
            "The TLS certificate of 127.0.0.1:{tls} is not trusted (unable to get local issuer certificate)",
        ),
        ("https://127.0.0.1:{http}", "TLS with 127.0.0.1:{http} failed"),
        ("http://127.0.0.1:{tls}", "127.0.0.1:{tls}"),
        ("http://127.0.0.1:{http}", "responds with something else than JSON"),
        ("http://127.0.0.1:{http}/moved", "redirects to https://exports.test/; use that address as the URL."),
    ],
)
async def test_an_address_without_the_service_is_explained(url: str, part: str, tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.read(65536)
        moved = b"301 Moved\r\nLocation: https://exports.test/" if b" /moved" in head else b"200 OK"
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello" % moved)
        await writer.drain()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("127.0.0.1").configure_cert(context)
    trusted = write_authority(tmp_path / "authority.pem")
    plain = await asyncio.start_server(answer, "127.0.0.1", 0)
    tls = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    ports = {"http": plain.sockets[0].getsockname()[1], "tls": tls.sockets[0].getsockname()[1]}
    async with plain, tls:
        settings = {"CONTACT_EXPORTS_URL": url.format(**ports), "CONTACT_EXPORTS_API_KEY": "a-key"}
        command = await contact_exports(*YEAR, "-o", str(tmp_path / "a.csv"), **settings)
        assert part.format(**ports) in sentence(command, 5)
        if url.startswith("https") and "tls" in url:
            trusting = await contact_exports(*YEAR, "-o", str(tmp_path / "a.csv"), **settings, SSL_CERT_FILE=str(trusted))
            assert "responds with something else than JSON" in sentence(trusting, 5)


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("flip", "The received bytes are not valid gzip"),
        ("cut", "The stored file ends at byte 1,000 of "),
        ("replace", "The SHA-256 of the received file is "),
        ("grow", "The received file is longer than "),
    ],
)
async def test_an_altered_file_is_refused_and_kept_aside(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    tmp_path: Path,
    change: str,
    reason: str,
) -> None:
    await add_contacts(connection, space.space_id, 500)
    target = tmp_path / "a.ndjson.gz"
    target.write_text("the file of yesterday")
    async with running({"DATABASE_URL": database_url, **files.settings}) as program:
        async with ExportClient(program.address, space.key) as client:
            export = await client.wait(await client.create(whole_range()))
        (stored,) = (tmp_path / "files").rglob("*.object")
        content = stored.read_bytes()
        middle = len(content) // 2
        stored.write_bytes(
            {
                "flip": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
                "cut": content[:1000],
                "replace": content[:4] + b"\1\1\1\1" + content[8:],  # the time in the header of a gzip member
                "grow": content + b"more",
            }[change]
        )
        settings = settings_of(program.address, space)
        named = ("export", "--id", str(export.export_id))
        command = await contact_exports(*named, "--force", "-o", str(target), **settings)
        message = sentence(command, 8)
        piped = await contact_exports(*named, "-o", "-", **settings)
    aside = tmp_path / "a.ndjson.gz.rejected"
    assert message.startswith(reason)
    assert message.endswith(f"It was not accepted and is kept as {aside}.")
    assert content.startswith(aside.read_bytes()[:4])
    assert target.read_text() == "the file of yesterday"
    assert names(tmp_path) == ["a.ndjson.gz", "a.ndjson.gz.rejected", "files"]
    assert sentence(piped, 9 if piped.output else 8).startswith(reason)


async def test_an_export_that_fails_or_expires_has_no_file(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 20)
    target = ("-o", str(tmp_path / "a.csv"))
    async with running({"DATABASE_URL": database_url, **files.settings}) as program:
        settings = settings_of(program.address, space)
        async with ExportClient(program.address, space.key) as client:
            deleted = await client.wait(await client.create(whole_range()))
            await client.cancel(deleted.export_id)
        expired = await contact_exports("export", "--id", str(deleted.export_id), *target, **settings)
        await connection.execute(
            "ALTER TABLE contacts RENAME TO people; CREATE VIEW contacts AS SELECT id, space_id, created_at, email,"
            " name, phone, merged_into, (location::int)::text AS location FROM people"
        )
        failed = await contact_exports(*YEAR, *target, "--json", **settings)
    assert f"Export {deleted.export_id} is expired: " in sentence(expired, 6)
    assert sentence(failed, 6).endswith("(source_data)")
    assert json.loads(failed.output)["export_id"] == deleted.export_id + 1
    assert names(tmp_path) == ["files"]


# People --------------------------------------------------------------------------------------------------------------


async def test_an_export_that_somebody_else_cancels_ends_the_command(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 20)
    async with (
        running({"DATABASE_URL": database_url, **files.settings}) as program,
        blocked_reads(database_url),
        started(*YEAR, "-o", str(tmp_path / "a.csv"), **settings_of(program.address, space)) as process,
    ):
        await until_reading(connection)
        async with ExportClient(program.address, space.key) as client:
            await client.cancel(1)
        command = await ended(process)
    assert sentence(command, 6) == "Export 1 was cancelled by somebody else."


@pytest.mark.parametrize(
    ("number", "choice", "status"),
    [
        (signal.SIGINT, "cancel", ExportStatus.CANCELLED),
        (signal.SIGINT, "leave", ExportStatus.PROCESSING),
        (signal.SIGTERM, "cancel", ExportStatus.CANCELLED),
        (signal.SIGHUP, "", ExportStatus.PROCESSING),
    ],
)
async def test_an_interrupted_command_cancels_or_leaves_its_export(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    tmp_path: Path,
    number: signal.Signals,
    choice: str,
    status: ExportStatus,
) -> None:
    await add_contacts(connection, space.space_id, 20)
    options = ("--on-interrupt", choice) if choice else ()
    async with (
        running({"DATABASE_URL": database_url, **files.settings}) as program,
        blocked_reads(database_url),
        started(*YEAR, *options, "-o", str(tmp_path / "a.csv"), **settings_of(program.address, space)) as process,
    ):
        await until_reading(connection)
        process.send_signal(number)
        command = await ended(process)
        async with ExportClient(program.address, space.key) as client:
            assert (await client.status(1)).status is status
    assert f"interrupted by {number.name}" in sentence(command, 128 + number)
    assert ("contact-exports export --id 1" in command.errors) == (status is ExportStatus.PROCESSING)
    assert names(tmp_path) == ["files"]


async def test_an_interrupt_during_the_creation_waits_for_the_id_and_cancels(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    options = ("--on-interrupt", "cancel", "-o", str(tmp_path / "a.csv"))
    blocker = await asyncpg.connect(database_url)
    async with (
        running({"DATABASE_URL": database_url, **files.settings, "EXPORT_SLOTS": "0"}) as program,
        started(*YEAR, *options, **settings_of(program.address, space)) as process,
    ):
        await blocker.execute("BEGIN; LOCK TABLE export_jobs IN SHARE ROW EXCLUSIVE MODE")
        await until_row(
            connection,
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO idempotency_keys%'",
        )
        process.send_signal(signal.SIGINT)
        await until_interrupted(process)
        await blocker.execute("COMMIT")
        command = await ended(process)
    await blocker.close()
    assert sentence(command, 130) == "The command was interrupted by SIGINT."
    assert await connection.fetchval("SELECT status FROM export_jobs") == "cancelled"


async def until_interrupted(process: asyncio.subprocess.Process) -> None:
    """Wait until a process has received its SIGINT."""
    status = Path(f"/proc/{process.pid}/status")
    bit = 1 << (signal.SIGINT - 1)

    def received() -> bool:
        fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        return not (int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)) & bit

    await until_true(received)


async def test_a_target_that_appears_meanwhile_is_not_replaced(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 20)
    target = tmp_path / "a.csv"
    async with (
        running({"DATABASE_URL": database_url, **files.settings}) as program,
        blocked_reads(database_url) as gate,
        started(*YEAR, "-o", str(target), **settings_of(program.address, space)) as process,
    ):
        await until_reading(connection)
        target.write_text("mine")
        await gate.execute("ROLLBACK")
        command = await ended(process)
    assert sentence(command, 10) == f"{target} already exists. Give --force to replace it."
    assert target.read_text() == "mine"
    assert names(tmp_path) == ["a.csv", "files"]


def is_full(pipe: int) -> bool:
    """Whether a pipe has no room for another page."""
    (waiting,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(waiting) > fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) - select.PIPE_BUF


async def test_a_command_whose_reader_does_not_read_can_be_interrupted(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    await add_wide_contacts(connection, space.space_id, 2)
    reading, writing = os.pipe()
    try:
        async with running({"DATABASE_URL": database_url, **files.settings}) as program:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service", *YEAR, "-o", "-"),
                env=environment(settings_of(program.address, space)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
            )
            try:
                await until_true(lambda: is_full(reading))
                process.send_signal(signal.SIGINT)
                async with asyncio.timeout(30):
                    assert await process.wait() == 130
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
    finally:
        os.close(reading)
        os.close(writing)


@asynccontextmanager
async def on_a_terminal(*arguments: str, **settings: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A command on a terminal of its own; yields its process and the other end of the terminal."""
    outside, inside = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", *arguments),
        env={"TERM": "xterm", "LANG": "C.UTF-8", **environment(settings)},
        stdin=inside,
        stdout=inside,
        stderr=inside,
    )
    os.close(inside)
    os.set_blocking(outside, False)
    try:
        yield process, outside
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        os.close(outside)


async def until_shown(terminal: int, text: str, shown: bytearray) -> None:
    """Read what a command shows until this text was in it."""

    async def found() -> bool:
        with suppress(OSError):  # nothing to read now, or the command has ended
            shown.extend(os.read(terminal, 65536))
        return text.encode() in shown

    await until(found)


@pytest.mark.parametrize(("reply", "status"), [("y", ExportStatus.CANCELLED), ("n", ExportStatus.PROCESSING)])
async def test_on_a_terminal_an_interrupt_asks_what_to_do(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    tmp_path: Path,
    reply: str,
    status: ExportStatus,
) -> None:
    await add_contacts(connection, space.space_id, 20)
    shown = bytearray()
    async with (
        running({"DATABASE_URL": database_url, **files.settings}) as program,
        blocked_reads(database_url),
        on_a_terminal(*YEAR, "-o", str(tmp_path / "a.csv"), **settings_of(program.address, space)) as (process, terminal),
    ):
        await until_reading(connection)
        await until_shown(terminal, "exporting ", shown)
        process.send_signal(signal.SIGINT)
        await until_shown(terminal, "Cancel export 1 on the service as well? [y/N]:", shown)
        os.write(terminal, f"{reply}\n".encode())
        await until_shown(terminal, "interrupted by SIGINT", shown)
        assert await process.wait() == 130
        async with ExportClient(program.address, space.key) as client:
            assert (await client.status(1)).status is status


@pytest.mark.parametrize(
    ("environ", "bar"),
    [({}, "━"), ({"PYTHONIOENCODING": "ascii"}, "###"), ({"TERM": "dumb"}, "")],
    ids=["utf-8", "ascii", "dumb"],
)
async def test_a_terminal_gets_one_bar_in_characters_that_it_can_show(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    files: StoreUnderTest,
    tmp_path: Path,
    environ: dict[str, str],
    bar: str,
) -> None:
    await add_contacts(connection, space.space_id, 200)
    shown = bytearray()
    async with (
        running({"DATABASE_URL": database_url, **files.settings}) as program,
        on_a_terminal(*YEAR, "-o", str(tmp_path / "a.csv"), **settings_of(program.address, space), **environ) as (
            process,
            terminal,
        ),
    ):
        await until_shown(terminal, "SHA-256 verified.", shown)
        assert await process.wait() == 0
    text = shown.decode()
    assert ("downloading " in text) == ("100% " in text) == bool(bar)
    assert bar in text
    assert text.count("\n") == 2, "one line for the new export and one for the result"
