"""Settings from the environment: all errors at once, by name and without values."""

import base64
import os
import re
import secrets
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.setting_source import load
from service.setting_types import number_range
from service.settings import Settings, SettingsError
from service.web.rate_limits import RateLimitBucket

DATABASE = "postgresql://alice:pass-of-alice@db.test/contacts"
GOOD = {"DATABASE_URL": DATABASE, "STORAGE_URL": "file:///var/lib/exports"}
LINK_SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdeffedcba9876543210"
SECRETS = [
    *("DATABASE_URL", "DATABASE_DIRECT_URL", "CONTACTS_DATABASE_URL"),
    *("LINK_SECRET", "RATE_LIMIT_STORAGE_URL", "WEBHOOK_PROXY", "ADMIN_TOKEN"),
]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(f"{name.upper()}_FILE", raising=False)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


def given(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def errors(monkeypatch: pytest.MonkeyPatch, **values: str) -> dict[str, str]:
    """Load valid settings with these changes; return the error text of each invalid setting by name."""
    given(monkeypatch, **{**GOOD, **values})
    with pytest.raises(SettingsError) as caught:
        load()
    lines = [line.partition(" ") for line in str(caught.value).splitlines()]
    return {name: text for name, _, text in lines}


def test_the_defaults_without_any_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    settings = load()
    assert (settings.database_url, settings.storage_url) == (None, None)
    assert settings.state_dir == Path("/home/alice/.local/state/contact-exports")
    assert (settings.rate_limit_create, settings.rate_limit_status) == ("5/minute", "30/minute")
    assert (settings.rate_limit_contacts, settings.rate_limit_contact) == ("15/minute", "30/minute")
    assert (settings.rate_limit_other, settings.max_range_days) == ("30/minute", None)
    assert (settings.link_seconds, settings.grace_seconds, settings.part_size) == (900, 8, 8 * 1024 * 1024)


def test_two_addresses_are_sufficient(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **GOOD)
    settings = load()
    assert (settings.dsn, settings.direct_dsn, settings.contacts_dsn) == (DATABASE, DATABASE, DATABASE)
    assert settings.files_url == GOOD["STORAGE_URL"]


def test_a_missing_address_is_named_when_it_is_read() -> None:
    needed = {
        "dsn": "DATABASE_URL",
        "direct_dsn": "DATABASE_URL",
        "contacts_dsn": "DATABASE_URL",
        "files_url": "STORAGE_URL",
    }
    for address, name in needed.items():
        with pytest.raises(SettingsError, match=f"^{name} is required$"):
            getattr(load(), address)


def test_the_optional_database_addresses_have_their_own_use(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **GOOD, DATABASE_DIRECT_URL="postgres://direct.test/a")
    assert (load().direct_dsn, load().contacts_dsn) == ("postgres://direct.test/a",) * 2
    given(monkeypatch, CONTACTS_DATABASE_URL="postgres://contacts.test/a")
    assert (load().direct_dsn, load().contacts_dsn) == (
        "postgres://direct.test/a",
        "postgres://contacts.test/a",
    )


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **GOOD, PORT="", PUBLIC_URL="", LINK_SECRET="")
    settings = load()
    assert (settings.port, settings.public_url, settings.link_secret) == (8080, None, None)


def test_all_invalid_settings_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "DATABASE_URL": "mysql://db.test/contacts",
        "DATABASE_DIRECT_URL": "db.test",
        "STORAGE_URL": "ftp://files.test/a",
        "S3_ENDPOINT_URL": "s3.test:9000",
        "LINK_SECRET": "too short",
        "PUBLIC_URL": "https://exports.test/?a=1",
        "PORT": "65536",
        "LEASE_SECONDS": "0",
        "LOG_LEVEL": "loud",
        "MAX_ATTEMPTS": "many",
        "MIGRATE_ON_START": "perhaps",
        "PART_SIZE": "1MiB",
        "RATE_LIMIT_CREATE": "5",
        "CONTACTS_DATABASE_URL_FILE": "/nowhere",
    }
    assert errors(monkeypatch, **wrong).keys() == wrong.keys()


@pytest.mark.parametrize("name", ["LEASE_SECONDS", "FETCH_TIMEOUT_SECONDS", "GRACE_SECONDS", "FILE_LIFETIME_HOURS"])
def test_a_time_that_no_server_can_count_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert errors(monkeypatch, **{name: "1e9"})[name].startswith("must be a number from ")


def test_a_conflict_between_two_settings_is_reported_with_the_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"S3_ENDPOINT_URL": "http://s3.test", "PORT": "high", "RATE_LIMIT_STORAGE_URL": "postgres://db.test"}
    assert errors(monkeypatch, **wrong).keys() >= wrong.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://alice:hunter2@db.test/a"),
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_URL", "postgresql://alice:[hunter2]@db.test/a"),
        ("DATABASE_URL", "postgresql://alice:hunter2\N{ACCOUNT OF}@db.test/a"),
        ("CONTACTS_DATABASE_URL", "postgresql://alice:hunter2[@db.test/a"),
        *(("DATABASE_URL", f"postgresql://alice:a{mark}hunter2@db.test/a") for mark in "/#?@"),
        *(("DATABASE_URL", f"postgresql://alice:hunter2{mark}a@db.test/a") for mark in "/#?@"),
        ("DATABASE_DIRECT_URL", "postgresql://db.test:hunter2/a"),
        ("DATABASE_DIRECT_URL", "postgresql://alice:hunter2@/a?port=hunter2"),
        ("DATABASE_DIRECT_URL", "postgresql://alice:hunter2@db.test/a?sslmode=hunter2"),
        ("DATABASE_DIRECT_URL", "postgresql://alice@db.test/a?hunter2+a=1"),
        ("STORAGE_URL", "s3://hunter2:hunter2@bucket/a"),
        ("STORAGE_URL", "s3://hunter2@bucket/a"),
        ("S3_ENDPOINT_URL", "https://alice:hunter2@s3.test"),
        ("S3_ENDPOINT_URL", "https://s3.test:hunter2"),
        ("PUBLIC_URL", "https://alice:hunter2@exports.test"),
        ("LINK_SECRET", "hunter2"),
        ("STORAGE_URL", "s3:hunter2"),
        ("STORAGE_URL", "s3://[hunter2]/a"),
        ("STORAGE_URL", "s3://hunter2\N{ACCOUNT OF}/a"),
        ("S3_ENDPOINT_URL", "https://alice:[hunter2]@s3.test"),
        ("PUBLIC_URL", "https://hunter2\N{ACCOUNT OF}.test"),
        ("PORT", "hunter2"),
        ("LOG_FORMAT", "hunter2"),
        ("S3_SIGN_PAYLOAD", "hunter2"),
        ("LEASE_SECONDS", "hunter2"),
        ("ADMIN_TOKEN", "hunter2"),
        ("ADMIN_TOKEN", "hunter2 hunter2 hunter2"),
        ("RATE_LIMIT_STORAGE_URL", "async+mongodb://alice:hunter2@db.test"),
        ("RATE_LIMIT_CREATE", "5/hunter2"),
        ("WEBHOOK_PROXY", "http://alice:hunter2@proxy.test:x"),
        ("WEBHOOK_PROXY", "http://alice:hunter2@proxy.test/path"),
        ("WEBHOOK_PROXY", "socks5://alice:hunter2@proxy.test"),
        ("WEBHOOK_ALLOW_HOSTS", "https://hunter2"),
        ("WEBHOOK_ALLOW_HOSTS", "hunter2:99999"),
        ("WEBHOOK_ALLOW_NETWORKS", "hunter2"),
        ("WEBHOOK_ALLOW_NETWORKS", "10.1.0.1/16"),
        ("PART_SIZE", "8 hunter2"),
        ("LINK_SECRET_FILE", "/nowhere/hunter2"),
    ],
)
def test_an_error_does_not_contain_the_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    given(monkeypatch, **{**GOOD, name: value})
    with pytest.raises(SettingsError, match=name) as caught:
        load()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **GOOD, LINK_SECRET=LINK_SECRET)
    shown = repr(load()) + str(load())
    assert "pass-of-alice" not in shown
    assert LINK_SECRET not in shown


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/some/prefix/", "s3://bucket/some/prefix"),
        ("file:///var/lib/exports", "file:///var/lib/exports"),
        ("file:///var/lib/exports/", "file:///var/lib/exports"),
        ("file:///with%20space", "file:///with%20space"),
    ],
)
def test_the_storage_url_is_a_bucket_or_an_absolute_directory(
    monkeypatch: pytest.MonkeyPatch, value: str, kept: str
) -> None:
    given(monkeypatch, **{**GOOD, "STORAGE_URL": value})
    assert load().storage_url == kept


@pytest.mark.parametrize(
    "value",
    [
        "s3://",
        "s3:///prefix",
        "s3:bucket",
        "s3://bucket?region=a",
        "s3://bucket/a#b",
        "file://relative/path",
        "file:relative",
        "file:///",
        "file:////",
        "file:///a?b",
        "/var/lib/exports",
        "https://bucket.s3.test",
        "bucket",
    ],
)
def test_any_other_storage_url_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert errors(monkeypatch, STORAGE_URL=value) == {"STORAGE_URL": "must be s3://bucket/prefix or file:///absolute/path"}


@pytest.mark.parametrize("name", ["S3_ENDPOINT_URL", "S3_PUBLIC_ENDPOINT_URL"])
def test_an_s3_endpoint_needs_a_bucket(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    given(monkeypatch, **GOOD, **{name: "http://s3.test"})
    with pytest.raises(SettingsError, match=name):
        load()
    given(monkeypatch, STORAGE_URL="s3://bucket")
    assert load().storage_url == "s3://bucket"


@pytest.mark.parametrize(
    ("value", "kept"), [("https://exports.test/", "https://exports.test"), ("http://a.test/b", "http://a.test/b")]
)
def test_a_trailing_slash_of_a_web_address_is_removed(monkeypatch: pytest.MonkeyPatch, value: str, kept: str) -> None:
    given(monkeypatch, **GOOD, PUBLIC_URL=value)
    assert load().public_url == kept


@pytest.mark.parametrize(
    "value", ["exports.test", "ftp://exports.test", "https://", "https://a.test?b=c", "https://a.test#b"]
)
def test_any_other_web_address_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert errors(monkeypatch, PUBLIC_URL=value).keys() == {"PUBLIC_URL"}


_DURATIONS = [name.upper() for name in Settings.model_fields if re.search("_(seconds|hours)$", name)]


@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
def test_a_duration_must_be_finite_and_not_negative(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert len(_DURATIONS) > 5
    assert errors(monkeypatch, **dict.fromkeys(_DURATIONS, value)).keys() == set(_DURATIONS)


def test_every_number_has_a_range() -> None:
    numbers = [field for field in Settings.model_fields.values() if re.search(r"\b(int|float)\b", str(field.annotation))]
    assert len(numbers) > 15
    assert [field for field in numbers if number_range(field) is None] == []


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("MAX_CONNECTIONS", "65537", "a whole number from 128 to 65,536"),
        ("MAX_RANGE_DAYS", "1000000", "a whole number from 1 to 36,500"),
        ("EXPORT_SLOTS", "1.5", "a whole number from 0 to 64"),
        ("POLL_SECONDS", "soon", "a number from 0.01 to 2,000,000"),
        # The server would take less than a millisecond for no timeout at all.
        ("FETCH_TIMEOUT_SECONDS", "0.0001", "a number from 0.01 to 2,000,000"),
    ],
)
def test_a_number_outside_its_range_is_refused_with_the_range(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    assert errors(monkeypatch, **{name: value}) == {name: f"must be {allowed}"}


@pytest.mark.parametrize("name", ["HOST", "DATABASE_URL", "STATE_DIR", "STORAGE_URL", "PORT"])
def test_a_value_that_is_not_utf_8_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/a\udcff")
    with pytest.raises(SettingsError, match=f"^{name} is not valid UTF-8$"):
        load()


@pytest.mark.parametrize("value", ["http://my_store:9000", "http://a..b", f"http://{'a' * 64}.test"])
def test_a_host_that_the_s3_client_does_not_accept_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    said = errors(monkeypatch, STORAGE_URL="s3://bucket", S3_ENDPOINT_URL=value)
    assert said["S3_ENDPOINT_URL"].startswith("must have a host name of letters, digits, hyphens and dots")


@pytest.mark.parametrize("endpoint", [None, "http://s3.internal:9000", "http://s3.internal/other"])
def test_a_public_endpoint_has_no_path_of_its_own(monkeypatch: pytest.MonkeyPatch, endpoint: str | None) -> None:
    internal = {} if endpoint is None else {"S3_ENDPOINT_URL": endpoint}
    said = errors(monkeypatch, STORAGE_URL="s3://bucket", S3_PUBLIC_ENDPOINT_URL="https://files.test/s3", **internal)
    assert said == {
        "S3_PUBLIC_ENDPOINT_URL": "must have the path of S3_ENDPOINT_URL, because the store checks the path of a link"
    }
    given(monkeypatch, S3_ENDPOINT_URL="http://s3.internal/s3")
    assert load().s3_public_endpoint_url == "https://files.test/s3"


def test_the_certificates_of_the_s3_client_must_be_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors(monkeypatch, AWS_CA_BUNDLE="/none/ca.pem") == {
        "AWS_CA_BUNDLE": "names a file that cannot be read: /none/ca.pem"
    }


@pytest.mark.parametrize(
    ("value", "size"), [("5MiB", 5 * 2**20), ("8000000", 8_000_000), ("1GiB", 2**30), ("6MB", 6 * 10**6)]
)
def test_the_part_size_is_in_bytes_or_has_a_unit(monkeypatch: pytest.MonkeyPatch, value: str, size: int) -> None:
    given(monkeypatch, PART_SIZE=value)
    assert load().part_size == size


@pytest.mark.parametrize("value", ["1", "4.9MiB", "1.1GiB", "-8MiB", "much"])
def test_a_part_size_outside_the_limits_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert errors(monkeypatch, PART_SIZE=value).keys() == {"PART_SIZE"}


def test_every_rate_limit_bucket_has_a_setting_of_its_own() -> None:
    limits = {name for name in Settings.model_fields if name.startswith("rate_limit_")} - {"rate_limit_storage_url"}
    assert sorted(bucket.setting for bucket in RateLimitBucket) == sorted(limits)


@pytest.mark.parametrize("value", ["1/second", "100/hour", "7 per 2 minutes"])
def test_a_rate_limit_is_kept_as_written(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    given(monkeypatch, RATE_LIMIT_STATUS=value)
    assert load().rate_limit_status == value


@pytest.mark.parametrize("value", ["5", "minute", "0/minute", "-5/minute", "5/fortnight", "5/minute; 100/day"])
def test_any_other_rate_limit_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert errors(monkeypatch, RATE_LIMIT_STATUS=value) == {"RATE_LIMIT_STATUS": "must be a limit such as 5/minute"}


@pytest.mark.parametrize("value", ["1000001/minute", "5/2 year", "99999999999999999999/second"])
def test_a_rate_limit_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert errors(monkeypatch, RATE_LIMIT_STATUS=value) == {
        "RATE_LIMIT_STATUS": "must be at most 1,000,000 calls in at most 366 days"
    }


@pytest.mark.parametrize(
    ("set_", "region"),
    [
        ({}, "us-east-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-west-2"}, "eu-west-2"),
        ({"AWS_REGION": "eu-west-2", "S3_REGION": "eu-west-3"}, "eu-west-3"),
    ],
)
def test_the_region_is_also_read_from_the_variables_of_aws(
    monkeypatch: pytest.MonkeyPatch, set_: dict[str, str], region: str
) -> None:
    given(monkeypatch, **set_)
    assert load().s3_region == region


def test_the_state_directory_is_below_xdg_state_home_or_state_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, XDG_STATE_HOME=str(tmp_path))
    assert load().state_dir == tmp_path / "contact-exports"
    given(monkeypatch, STATE_DIR="/srv/state")
    assert load().state_dir == Path("/srv/state")


# Secrets in files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_can_be_read_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    values = {
        "LINK_SECRET": LINK_SECRET,
        "RATE_LIMIT_STORAGE_URL": "async+redis://:a@cache.test",
        "WEBHOOK_PROXY": "http://alice:a@proxy.test:3128",
    }
    value = values.get(name, DATABASE)
    (tmp_path / "secret").write_text(f"{value}\n")
    given(monkeypatch, **{f"{name}_FILE": str(tmp_path / "secret")})
    assert getattr(load(), name.lower()) == SecretStr(value)


def test_every_secret_setting_can_be_read_from_a_file() -> None:
    secret = {name.upper() for name, each in Settings.model_fields.items() if "SecretStr" in str(each.annotation)}
    assert secret == set(SECRETS)


def test_a_secret_must_not_be_set_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(DATABASE)
    said = errors(monkeypatch, DATABASE_URL_FILE=str(tmp_path / "secret"))
    assert said == {"DATABASE_URL_FILE": "and DATABASE_URL are both set"}


def test_an_unreadable_file_is_reported_with_the_other_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    said = errors(monkeypatch, LINK_SECRET_FILE=str(tmp_path / "binary"), DATABASE_DIRECT_URL_FILE=str(tmp_path), PORT="x")
    assert said.keys() == {"LINK_SECRET_FILE", "DATABASE_DIRECT_URL_FILE", "PORT"}


def test_the_content_of_a_file_is_validated_and_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mysql://alice:hunter2@db.test")
    given(monkeypatch, DATABASE_URL_FILE=str(tmp_path / "secret"))
    with pytest.raises(SettingsError, match="DATABASE_URL must be") as caught:
        load()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_has_a_description(name: str) -> None:
    description = Settings.model_fields[name].description or ""
    assert len(description) > 15
    assert description == description.strip()


def test_a_user_without_a_home_directory_can_load_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    given(monkeypatch)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    assert load().state_dir == Path(tempfile.gettempdir(), f"contact-exports-{os.geteuid()}")


def test_failpoints_must_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors(monkeypatch, FAILPOINTS="claimed:kill") == {"FAILPOINTS": "needs ALLOW_FAILPOINTS=1"}
    given(monkeypatch, ALLOW_FAILPOINTS="1")
    assert load().failpoints == "claimed:kill"


def test_an_unknown_failpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors(monkeypatch, ALLOW_FAILPOINTS="1", FAILPOINTS="claimed:kill,nowhere:kill").keys() == {"FAILPOINTS"}


def test_small_parts_need_allow_failpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors(monkeypatch, PART_SIZE="16KiB") == {"PART_SIZE": "must be at least 5MiB"}
    given(monkeypatch, ALLOW_FAILPOINTS="1")
    assert load().part_size == 16 * 1024
    assert errors(monkeypatch, PART_SIZE="15KiB").keys() == {"PART_SIZE"}


@pytest.mark.parametrize("value", ["a" * 64, "ab" * 32, "0f1e2d3c4b5a6978", "sesame" * 10, "c2VzYW1l" * 8])
def test_a_weak_link_secret_is_refused_with_the_command_that_makes_one(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    expected = "must be 32 random bytes as hex or base64; make one with: openssl rand -hex 32"
    assert errors(monkeypatch, LINK_SECRET=value) == {"LINK_SECRET": expected}


@pytest.mark.parametrize("encode", [bytes.hex, base64.b64encode, base64.urlsafe_b64encode])
def test_a_link_secret_may_be_hex_or_base64(monkeypatch: pytest.MonkeyPatch, encode: Callable[[bytes], str | bytes]) -> None:
    for _ in range(100):
        text = encode(secrets.token_bytes(32))
        given(monkeypatch, LINK_SECRET=text if isinstance(text, str) else text.decode())
        assert load().link_secret is not None


def test_encryption_belongs_to_a_bucket_and_a_key_to_kms(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors(monkeypatch, S3_SSE="AES256") == {"S3_SSE": "needs STORAGE_URL=s3://…"}
    bucket = {"STORAGE_URL": "s3://bucket/prefix"}
    found = errors(monkeypatch, **bucket, S3_SSE="AES256", S3_KMS_KEY_ID="alias/exports")
    assert found == {"S3_KMS_KEY_ID": "needs S3_SSE=aws:kms or S3_SSE=aws:kms:dsse"}
    assert "S3_SSE" in errors(monkeypatch, **bucket, S3_SSE="rot13")
    given(monkeypatch, **bucket, S3_SSE="aws:kms", S3_KMS_KEY_ID="alias/exports")
    assert (load().s3_sse, load().s3_kms_key_id) == ("aws:kms", "alias/exports")
