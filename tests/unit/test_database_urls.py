"""Database URLs as providers print them: what is dropped, translated and refused."""

import getpass
import ssl
from pathlib import Path
from ssl import DefaultVerifyPaths
from typing import Any
from urllib.parse import parse_qs, urlsplit

import certifi
import pytest
from asyncpg import connect_utils

from service.database_urls import hosts_of, place_of, translate

_ENCODED = "percent-encoded"


def parameters(url: str) -> dict[str, str]:
    """The parameters of the translated URL."""
    return {name: values[0] for name, values in parse_qs(urlsplit(translate(url)).query).items()}


@pytest.mark.parametrize(
    ("given", "translated"),
    [
        ("", {}),
        ("sslmode=require&channel_binding=require", {"sslmode": "require"}),
        ("pgbouncer=true&connection_limit=1&connect_timeout=15&pool_timeout=0", {}),
        ("schema=public", {"search_path": '"public"'}),
        ("currentSchema=My+Schema,b", {"search_path": '"My Schema","b"'}),
        ("sslmode=no-verify", {"sslmode": "require"}),
        ("ssl=true", {"sslmode": "require"}),
        ("ssl=0", {"sslmode": "disable"}),
        ("application_name=x&keepalives_idle=3&sslaccept=strict&supa=base-pooler.x", {}),
        ("options=endpoint%3Dcool-name-1", {"options": "endpoint=cool-name-1"}),
        ("target_session_attrs=read-write&search_path=a,b", {"target_session_attrs": "read-write", "search_path": "a,b"}),
        ("lock_timeout=1&statement_timeout=1", {}),
        ("sslmode=", {}),
    ],
)
def test_parameters_of_other_clients_are_dropped_or_translated(given: str, translated: dict[str, str]) -> None:
    assert parameters(f"postgresql://alice:secret@db.test/a?{given}") == translated


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        *((f"postgresql://alice:a{mark}b@db.test/a", _ENCODED) for mark in "/#?@"),
        ("postgresql://alice:a[b@db.test/a", _ENCODED),
        ("postgresql://alice:a%00b@db.test/a", "zero byte"),
        ("mysql://db.test/a", "starts with postgresql://"),
        ("postgresql://db.test:port/a", "port"),
        ("postgresql://db.test:0/a", "port"),
        ("postgresql://db.test:65536/a", "port"),
        ("postgresql://a.test:1,b.test:99999/a", "port"),
        ("postgresql://a.test,/a", "host list"),
        ("postgresql://,a.test/a", "host list"),
        ("postgresql://[::1/a", _ENCODED),
        ("postgresql:///a?host=a,b,c&port=1,2", "another number of ports than of hosts"),
        ("postgresql:///a?port=5432", "another number of ports than of hosts"),
        ("postgresql:///a?host=a,,b", "host list"),
        ("postgresql:///a?host=a&port=x", "port"),
        ("postgresql://a..b/a", "a host that is not a valid name"),
        (f"postgresql://{'a' * 64}.test/a", "a host that is not a valid name"),
        ("postgresql:///a?host=a..b", "a host that is not a valid name"),
        ("postgresql://db.test/a?sslmode=on", "unknown sslmode; it must be one of disable, allow"),
        ("postgresql://db.test/a?target_session_attrs=master", "unknown target_session_attrs"),
        ("postgresql://db.test/a?sslnegotiation=direct", "sslnegotiation=direct"),
        ("postgresql://db.test/a?ssl_min_protocol_version=1", "unknown ssl_min_protocol_version"),
        ("postgresql://db.test/a?replication=database", "the parameter replication"),
        ("postgresql://db.test/a?sslmode=verify-full&sslrootcert=/none/ca.pem", "/none/ca.pem is not one that can be read"),
        ("postgresql://db.test/a?sslmode=require&sslcert=/none/me.pem", "a file in sslcert that cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("?", r"\?")):
        translate(url)


def test_verify_full_without_a_root_certificate_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    for mode in ("verify-ca", "verify-full"):
        with pytest.raises(ValueError, match=f"sslmode={mode}, which needs a root certificate.*sslrootcert=/path/to/ca.pem"):
            translate(f"postgresql://db.test/a?sslmode={mode}")


@pytest.mark.parametrize(
    ("variable", "value", "url"),
    [
        ("PGPORT", "x", "postgresql://a@db.test/a"),
        ("PGSSLMODE", "on", "postgresql://a@db.test:1/a"),
        ("PGTARGETSESSIONATTRS", "master", "postgresql://a@db.test:1/a"),
        ("PGSSLNEGOTIATION", "x", "postgresql://a@db.test:1/a"),
    ],
)
def test_variables_that_complete_the_url_are_checked(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, url: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"is completed by {variable}, which must be"):
        translate(url)
    complete = "postgresql://a@db.test:1/a?sslmode=disable&target_session_attrs=any&sslnegotiation=postgres"
    assert translate(complete) == complete


def test_a_url_without_a_user_needs_a_user_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.delenv("PGUSER", raising=False)
    with pytest.raises(ValueError, match="names no user, and the user of this process has no name; add one"):
        translate("postgresql://db.test/a")
    for url in ("postgresql://alice@db.test/a", "postgresql://db.test/a?user=alice"):
        assert translate(url) == url
    monkeypatch.setenv("PGUSER", "alice")
    assert translate("postgresql://db.test/a") == "postgresql://db.test/a"


def test_the_root_certificates_of_the_system_are_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    roots = certifi.where()
    monkeypatch.setenv("SSL_CERT_FILE", roots)
    assert parameters("postgresql://a@db.test/a?sslmode=verify-full&sslrootcert=system")["sslrootcert"] == roots
    monkeypatch.setenv("SSL_CERT_FILE", "/none/ca.pem")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: DefaultVerifyPaths("", "", "", "/none/ca.pem", "", ""))
    with pytest.raises(ValueError, match=r"/none/ca\.pem is not one that can be read"):
        translate("postgresql://a@db.test/a?sslmode=verify-full&sslrootcert=system")


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://alice:secret@a.test:1,b.test/a", "a.test:1,b.test"),
        ("postgresql://alice:secret@/a?host=/run/postgresql&port=5433", "/run/postgresql:5433"),
        ("postgresql://%2Ftmp/a", "/tmp"),
        ("postgresql://alice:secret@/a", "the local socket"),
    ],
)
def test_hosts_are_named_without_user_and_password(monkeypatch: pytest.MonkeyPatch, url: str, hosts: str) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    assert hosts_of(url) == hosts


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://alice:%2F%23%3F%40@a.test:1,[::1]:2,c/a?schema=b",
        "postgres://alice@/a?host=/tmp,b&port=5432",
        "postgresql:///a?host=/tmp&port=5432",
        "postgresql://%2Ftmp/a",
        "postgresql://",
    ],
)
def test_the_driver_accepts_a_translated_url(url: str) -> None:
    parse: Any = vars(connect_utils)["_parse_connect_dsn_and_args"]
    addresses, options = parse(
        **dict.fromkeys(("host", "port", "user", "password", "passfile", "database", "ssl", "service", "servicefile")),
        **dict.fromkeys(("direct_tls", "server_settings", "target_session_attrs", "krbsrvname", "gsslib")),
        dsn=translate(url),
    )
    assert addresses
    if "alice:" in url:
        assert (options.user, options.password) == ("alice", "/#?@")
        assert addresses == [("a.test", 1), ("::1", 2), ("c", 5432)]


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://alice:secret@db.test:5433/crm?sslmode=require", "the database crm on db.test:5433"),
        (
            "postgresql://alice:secret@/crm?host=/var/run/postgresql&port=5433",
            "the database crm on /var/run/postgresql:5433",
        ),
        ("postgresql://alice:secret@a:1,b:2/my%20crm", "the database my crm on a:1,b:2"),
        ("postgresql://alice:secret@db.test", "the default database on db.test"),
        ("postgresql://db.test/?dbname=crm&password=secret&user=alice", "the database crm on db.test"),
    ],
)
def test_the_place_of_a_database_has_neither_user_nor_password(url: str, place: str) -> None:
    assert place_of(url) == place
