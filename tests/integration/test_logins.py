"""Logins that cannot succeed until a person corrects a setting, in words that say which."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest

from service import database_urls
from service.embedded.postgres import EmbeddedPostgres
from service.errors import DatabaseRefused, DatabaseUnavailable, LoginRefused, RightMissing, SchemaMismatch
from service.exports.ownership import Ownership
from service.failures import SourceUnavailable
from service.postgres.contact_check import check_contacts
from service.postgres.contact_source import ContactSource
from service.postgres.migrate import check_schema
from service.postgres.pool import Database
from service.postgres.rights import check_rights
from service.postgres.session import connect_to_contacts
from service.postgres.single_connection import single_connection
from service.process.startup import Startup, StartupRules
from service.storage import ObjectStore
from tests.support import docs
from tests.support.certificates import make_certificate, tls_in_front_of
from tests.support.jobs import connect
from tests.support.postgres_proxy import postgres_proxy
from tests.support.roles import role
from tests.support.shell import contact_exports

NO_TIME = timedelta(0)
SECONDS = timedelta(seconds=5)
_RULES = "local all postgres trust\nlocal all rejected reject\nlocal all all scram-sha-256\n"


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that asks for passwords."""
    directory = tmp_path_factory.mktemp("strict")
    with EmbeddedPostgres(directory / "postgres", parameters={"fsync": "off"}) as server:
        (directory / "postgres" / "cluster" / "pg_hba.conf").write_text(_RULES)
        yield server.dsn()


@pytest.fixture
async def strict_url(strict_server: str) -> str:
    """The URL of a role that may log in with the password `right`, on that server."""
    async with connect(strict_server) as superuser:
        await superuser.execute("SELECT pg_reload_conf()")
        await superuser.execute(
            "DROP ROLE IF EXISTS alice, no_login, rejected; CREATE ROLE alice LOGIN PASSWORD 'right';"
            "CREATE ROLE no_login PASSWORD 'right'; CREATE ROLE rejected LOGIN PASSWORD 'right';"
            "REVOKE CONNECT ON DATABASE template1 FROM PUBLIC"
        )
    return urlsplit(strict_server)._replace(netloc="alice:right@").geturl()


Change = Callable[[str], str]
REFUSED: list[tuple[Change, str]] = [
    (lambda url: url.replace(":right@", ":wrong@"), "InvalidPasswordError 28P01"),
    (lambda url: url.replace("alice:", "nobody:"), "InvalidPasswordError 28P01"),
    (lambda url: url.replace("alice:", "no_login:"), "InvalidAuthorizationSpecificationError 28000"),
    (lambda url: url.replace("alice:", "rejected:"), "InvalidAuthorizationSpecificationError 28000"),
    (lambda url: url.replace("/postgres?", "/no_such_database?"), "InvalidCatalogNameError 3D000"),
    (
        lambda url: url.replace("/postgres?", "/template1?"),
        "InsufficientPrivilegeError 42501: permission denied for database",
    ),
]


@pytest.mark.parametrize(
    ("change", "reason"), REFUSED, ids=[reason.split(":")[0] + str(at) for at, (_, reason) in enumerate(REFUSED)]
)
async def test_a_login_that_cannot_succeed_ends_the_startup(
    strict_url: str, change: Change, reason: str, tmp_path: Path
) -> None:
    async with single_connection(strict_url, command_timeout=SECONDS):
        pass
    url = change(strict_url)
    startup = startup_on(url)
    with pytest.raises((LoginRefused, RightMissing)) as caught:
        await startup.schema()
    assert reason in (caught.value.detail or "")
    assert "right" not in (caught.value.detail or "")


def startup_on(url: str, contacts: str | None = None) -> Startup:
    """The startup of a service on these databases."""
    rules = StartupRules(own_contacts=True, may_migrate=True)
    unused = cast(ObjectStore, None), cast(Ownership, None)  # by the steps under test
    return Startup(url, ContactSource(contacts or url, SECONDS), *unused, rules)


async def test_commands_end_with_exit_code_2_and_one_sentence(strict_url: str) -> None:
    for command in (["spaces", "list"], ["migrate"]):
        ended = await contact_exports(*command, DATABASE_URL=strict_url.replace(":right@", ":wrong@"))
        assert (ended.code, ended.output) == (2, "")
        (line,) = ended.errors.splitlines()
        assert line.startswith("The main database refuses the login; correct DATABASE_URL (or DATABASE_DIRECT_URL). (")
        assert "wrong" not in line


async def test_contacts_of_another_database_are_named(strict_url: str, database_url: str) -> None:
    startup = startup_on(database_url, strict_url.replace(":right@", ":wrong@"))
    with pytest.raises(LoginRefused, match=r"correct CONTACTS_DATABASE_URL.*28P01"):
        await startup.contacts()


# TLS -----------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def over_tls(url: str, directory: Path, mode: str, roots: str) -> AsyncIterator[str]:
    """The URL of the database over TLS, translated."""
    async with tls_in_front_of(url, make_certificate(directory)) as encrypted:
        yield database_urls.translate(f"{encrypted}?sslmode={mode}&sslrootcert={roots}")


async def test_the_certificates_of_the_system_verify_a_server(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    make_certificate(tmp_path)
    async with over_tls(database_url, tmp_path, "verify-full", "system") as url, connect(url) as sql:
        assert await sql.fetchval("SELECT 1") == 1


async def test_a_server_with_another_certificate_is_refused(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other")
    async with over_tls(database_url, tmp_path, "verify-full", str(other)) as url:
        with pytest.raises(LoginRefused, match="CERTIFICATE_VERIFY_FAILED"):
            await startup_on(url).schema()


async def test_a_server_without_tls_is_refused_if_the_url_requires_it(database_url: str) -> None:
    async with postgres_proxy(database_url) as proxy:
        with pytest.raises(LoginRefused, match="rejected SSL upgrade"):
            await startup_on(f"{proxy.url.partition('?')[0]}?sslmode=require").schema()


# Poolers and hosts ---------------------------------------------------------------------------------------------------


async def test_a_pooler_that_drops_the_settings_of_a_session_is_named(database_url: str) -> None:
    async with postgres_proxy(database_url) as proxy:
        proxy.startup = {"contact_exports.session": ""}
        with pytest.raises(LoginRefused, match=r"a connection pooler .*: set DATABASE_DIRECT_URL"):
            await startup_on(proxy.url).schema()
        with pytest.raises(SourceUnavailable, match="CONTACTS_DATABASE_URL"):
            await connect_to_contacts(proxy.url, SECONDS)
        report = await check_contacts(proxy.url, space_id=None, each=SECONDS, total=SECONDS)
        assert [finding.code for finding in report.findings] == ["pooler"]
        async with Database(proxy.url, application_name="tests", size=1) as database:
            with pytest.raises(DatabaseRefused, match="connection pooler"):
                await database.ping()
        async with Database(proxy.url, application_name="tests", size=1, pooler=True) as database:
            await database.ping()


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://alice:secret@127.0.0.1:1/a", "127.0.0.1:1"),
        ("postgresql://alice:secret@/a?host=/none&port=5432", "/none:5432"),
        ("postgresql://alice:secret@no-such-host.invalid/a", "no-such-host.invalid"),
    ],
)
async def test_the_host_of_a_server_that_cannot_be_reached_is_named(url: str, named: str) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        await check_schema(url)
    assert f"({named})" in (caught.value.detail or "")
    async with Database(url, application_name="tests", size=1) as database:
        with pytest.raises(DatabaseUnavailable) as caught:
            await database.fetch("ping")
    assert f"({named})" in (caught.value.detail or "")
    with pytest.raises(SourceUnavailable) as source:
        await connect_to_contacts(url, SECONDS)
    assert f"({named})" in (source.value.detail or "")
    assert "secret" not in f"{caught.value.detail} {source.value.detail}"


# Rights --------------------------------------------------------------------------------------------------------------


def documented_grants() -> list[tuple[str, str]]:
    """Each right on a relation of the service that the page grants, as (right, relation)."""
    block = docs.block("sql", "docs/operating.md", "GRANT SELECT")
    others = ("contacts,", "overview", "only for")
    own = [line for line in block.splitlines() if not any(each in line for each in others)]
    grants = []
    for line in own:
        rights, _, relations = line.removeprefix("GRANT ").partition(" TO ")[0].partition(" ON ")
        relations = relations.removeprefix("SEQUENCE ")
        grants += [(right, relation) for right in rights.split(", ") for relation in relations.split(", ") if relations]
    return grants


async def test_every_documented_right_that_is_missing_is_named(database_url: str) -> None:
    grants = documented_grants()
    assert len(grants) > 20
    async with role(database_url) as limited, connect(database_url) as owner:
        name = urlsplit(limited).username
        await owner.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {name}")
        for right, relation in grants:
            await owner.execute(f"GRANT {right} ON {relation} TO {name}")
        await check_rights(limited)
        for right, relation in grants:
            await owner.execute(f"REVOKE {right} ON {relation} FROM {name}")
            with pytest.raises(SchemaMismatch, match=f"role {name} lacks rights: {right} ON {relation}[.] "):
                await check_rights(limited)
            await owner.execute(f"GRANT {right} ON {relation} TO {name}")
        await owner.execute(f"REVOKE SELECT ON schema_migrations, spaces FROM {name}")
        with pytest.raises(SchemaMismatch, match=r"lacks rights: SELECT ON schema_migrations, SELECT ON spaces[.] "):
            await startup_on(limited).schema()


async def test_a_command_names_the_right_that_it_lacks(database_url: str) -> None:
    async with role(database_url, "REVOKE SELECT ON export_overview FROM {}") as limited:
        ended = await contact_exports("exports", "list", DATABASE_URL=limited)
    reason = "InsufficientPrivilegeError 42501: permission denied for view export_overview"
    expected = f"The database role of the service lacks a right. ({reason})\n"
    assert (ended.code, ended.output, ended.errors) == (2, "", expected)


async def test_a_role_that_may_not_create_tables_is_told_what_to_run(empty_database_url: str, tmp_path: Path) -> None:
    async with role(empty_database_url) as limited:
        for command in ("migrate", "serve"):
            ended = await contact_exports(command, DATABASE_URL=limited, STORAGE_URL=tmp_path.as_uri(), PORT="0")
            assert ended.code == 2
            assert "may not create tables. As the owner of the schema run: GRANT CREATE ON SCHEMA public TO" in ended.errors
            assert "Traceback" not in ended.errors


async def test_time_limits_of_the_role_do_not_reach_the_sessions(database_url: str) -> None:
    defaults = "ALTER ROLE {0} SET lock_timeout = '1ms'; ALTER ROLE {0} SET idle_in_transaction_session_timeout = '1ms'"
    async with role(database_url, defaults) as limited:
        async with Database(limited, application_name="tests", size=1) as database, database.connection() as connection:
            assert await connection.fetchval("SHOW lock_timeout") == "0"
            assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "1min"
        reader = await connect_to_contacts(limited, SECONDS)
        assert await reader.fetchval("SHOW lock_timeout") == "0"
        reader.terminate()
