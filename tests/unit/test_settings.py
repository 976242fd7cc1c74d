"""Settings from the environment: every fault at once, by its name, and no value in any text."""

import re
import tempfile
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.settings import Settings, SettingsError, load

DATABASE = "postgresql://alice:pass-of-alice@db.test/contacts"
GOOD = {"DATABASE_URL": DATABASE, "STORAGE_URL": "file:///var/lib/exports"}


SECRETS = ["DATABASE_URL", "DATABASE_DIRECT_URL", "CONTACTS_DATABASE_URL", "LINK_SECRET", "RATE_LIMIT_STORAGE_URL"]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(f"{name.upper()}_FILE", raising=False)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


def given(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def faults(monkeypatch: pytest.MonkeyPatch, **values: str) -> dict[str, str]:
    """What is said about good settings with these changes: the name of each faulty one, and the rest of its line."""
    given(monkeypatch, **{**GOOD, **values})
    with pytest.raises(SettingsError) as caught:
        load()
    lines = [line.partition(" ") for line in str(caught.value).splitlines()]
    return {name: text for name, _, text in lines}


def test_without_any_variable_there_are_sound_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    settings = load()
    assert (settings.database_url, settings.storage_url) == (None, None)
    assert settings.state_dir == Path("/home/alice/.local/state/contact-exports")
    assert (settings.rate_limit_create, settings.rate_limit_status) == ("5/minute", "30/minute")
    assert (settings.link_seconds, settings.grace_seconds, settings.part_size) == (900, 8, 8 * 1024 * 1024)


def test_the_two_addresses_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **GOOD)
    settings = load()
    assert (settings.dsn, settings.direct_dsn, settings.contacts_dsn) == (DATABASE, DATABASE, DATABASE)
    assert settings.files_url == GOOD["STORAGE_URL"]


def test_what_is_missing_is_named_where_it_is_needed() -> None:
    needed = {
        "dsn": "DATABASE_URL",
        "direct_dsn": "DATABASE_URL",
        "contacts_dsn": "DATABASE_URL",
        "files_url": "STORAGE_URL",
    }
    for address, name in needed.items():
        with pytest.raises(SettingsError, match=f"^{name} is required$"):
            getattr(load(), address)


def test_the_other_databases_are_used_for_what_they_are_given_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **GOOD, DATABASE_DIRECT_URL="postgres://direct.test/a")
    assert (load().direct_dsn, load().contacts_dsn) == ("postgres://direct.test/a",) * 2
    given(monkeypatch, CONTACTS_DATABASE_URL="postgres://contacts.test/a")
    assert (load().direct_dsn, load().contacts_dsn) == (
        "postgres://direct.test/a",
        "postgres://contacts.test/a",
    )


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **GOOD, PORT="", PUBLIC_URL="", LINK_SECRET="")
    settings = load()
    assert (settings.port, settings.public_url, settings.link_secret) == (8080, None, None)


def test_every_fault_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert faults(monkeypatch, **wrong).keys() == wrong.keys()


def test_faults_that_lie_between_two_settings_are_named_together_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"S3_ENDPOINT_URL": "http://s3.test", "PORT": "high", "RATE_LIMIT_STORAGE_URL": "postgres://db.test"}
    assert faults(monkeypatch, **wrong).keys() >= wrong.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://alice:hunter2@db.test/a"),
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_URL", "postgresql://alice:[hunter2]@db.test/a"),
        ("DATABASE_URL", "postgresql://alice:hunter2\N{ACCOUNT OF}@db.test/a"),
        ("CONTACTS_DATABASE_URL", "postgresql://alice:hunter2[@db.test/a"),
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
        ("RATE_LIMIT_STORAGE_URL", "async+mongodb://alice:hunter2@db.test"),
        ("RATE_LIMIT_CREATE", "5/hunter2"),
        ("PART_SIZE", "8 hunter2"),
        ("LINK_SECRET_FILE", "/nowhere/hunter2"),
    ],
)
def test_a_fault_is_told_without_the_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    given(monkeypatch, **{**GOOD, name: value})
    with pytest.raises(SettingsError, match=name) as caught:
        load()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **GOOD, LINK_SECRET="sesame-sesame-sesame")
    shown = repr(load()) + str(load())
    assert "pass-of-alice" not in shown
    assert "sesame" not in shown


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
def test_a_place_for_files_is_a_bucket_or_an_absolute_directory(
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
def test_any_other_place_for_files_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert faults(monkeypatch, STORAGE_URL=value) == {"STORAGE_URL": "must be s3://bucket/prefix or file:///absolute/path"}


@pytest.mark.parametrize("name", ["S3_ENDPOINT_URL", "S3_PUBLIC_ENDPOINT_URL"])
def test_an_endpoint_of_s3_needs_a_bucket(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    given(monkeypatch, **GOOD, **{name: "http://s3.test"})
    with pytest.raises(SettingsError, match=name):
        load()
    given(monkeypatch, STORAGE_URL="s3://bucket")
    assert load().storage_url == "s3://bucket"


@pytest.mark.parametrize(
    ("value", "kept"), [("https://exports.test/", "https://exports.test"), ("http://a.test/b", "http://a.test/b")]
)
def test_a_web_address_is_kept_without_a_slash_at_its_end(monkeypatch: pytest.MonkeyPatch, value: str, kept: str) -> None:
    given(monkeypatch, **GOOD, PUBLIC_URL=value)
    assert load().public_url == kept


@pytest.mark.parametrize(
    "value", ["exports.test", "ftp://exports.test", "https://", "https://a.test?b=c", "https://a.test#b"]
)
def test_any_other_web_address_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert faults(monkeypatch, PUBLIC_URL=value).keys() == {"PUBLIC_URL"}


_DURATIONS = [name.upper() for name in Settings.model_fields if re.search("_(seconds|hours)$", name)]


@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
def test_a_duration_is_a_time_that_can_pass(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert len(_DURATIONS) > 5
    assert faults(monkeypatch, **dict.fromkeys(_DURATIONS, value)).keys() == set(_DURATIONS)


@pytest.mark.parametrize(
    ("value", "size"), [("5MiB", 5 * 2**20), ("8000000", 8_000_000), ("1GiB", 2**30), ("6MB", 6 * 10**6)]
)
def test_the_size_of_a_part_is_given_in_bytes_or_with_a_unit(monkeypatch: pytest.MonkeyPatch, value: str, size: int) -> None:
    given(monkeypatch, PART_SIZE=value)
    assert load().part_size == size


@pytest.mark.parametrize("value", ["1", "4.9MiB", "1.1GiB", "-8MiB", "much"])
def test_a_part_is_as_large_as_stores_take_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert faults(monkeypatch, PART_SIZE=value).keys() == {"PART_SIZE"}


@pytest.mark.parametrize("value", ["1/second", "100/hour", "7 per 2 minutes"])
def test_a_limit_is_kept_as_it_is_written(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    given(monkeypatch, RATE_LIMIT_STATUS=value)
    assert load().rate_limit_status == value


@pytest.mark.parametrize("value", ["5", "minute", "0/minute", "-5/minute", "5/fortnight", "5/minute; 100/day"])
def test_any_other_limit_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert faults(monkeypatch, RATE_LIMIT_STATUS=value) == {"RATE_LIMIT_STATUS": "must be a limit such as 5/minute"}


@pytest.mark.parametrize(
    ("set_", "region"),
    [
        ({}, "us-east-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-west-2"}, "eu-west-2"),
        ({"AWS_REGION": "eu-west-2", "S3_REGION": "eu-west-3"}, "eu-west-3"),
    ],
)
def test_the_region_may_be_the_usual_one(monkeypatch: pytest.MonkeyPatch, set_: dict[str, str], region: str) -> None:
    given(monkeypatch, **set_)
    assert load().s3_region == region


def test_state_is_kept_where_the_desktop_says_or_the_operator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given(monkeypatch, XDG_STATE_HOME=str(tmp_path))
    assert load().state_dir == tmp_path / "contact-exports"
    given(monkeypatch, STATE_DIR="/srv/state")
    assert load().state_dir == Path("/srv/state")


# Secrets in files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    values = {
        "LINK_SECRET": "sesame-sesame-sesame",
        "RATE_LIMIT_STORAGE_URL": "async+redis://:a@cache.test",
    }
    value = values.get(name, DATABASE)
    (tmp_path / "secret").write_text(f"{value}\n")
    given(monkeypatch, **{f"{name}_FILE": str(tmp_path / "secret")})
    assert getattr(load(), name.lower()) == SecretStr(value)


def test_every_secret_setting_may_be_in_a_file() -> None:
    secret = {name.upper() for name, each in Settings.model_fields.items() if "SecretStr" in str(each.annotation)}
    assert secret == set(SECRETS)


def test_a_secret_is_not_given_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(DATABASE)
    said = faults(monkeypatch, DATABASE_URL_FILE=str(tmp_path / "secret"))
    assert said == {"DATABASE_URL_FILE": "and DATABASE_URL are both set"}


def test_a_file_that_cannot_be_read_is_a_fault_among_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    said = faults(monkeypatch, LINK_SECRET_FILE=str(tmp_path / "binary"), DATABASE_DIRECT_URL_FILE=str(tmp_path), PORT="x")
    assert said.keys() == {"LINK_SECRET_FILE", "DATABASE_DIRECT_URL_FILE", "PORT"}


def test_what_a_file_holds_is_checked_and_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mysql://alice:hunter2@db.test")
    given(monkeypatch, DATABASE_URL_FILE=str(tmp_path / "secret"))
    with pytest.raises(SettingsError, match="DATABASE_URL must be") as caught:
        load()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_described_in_a_sentence(name: str) -> None:
    description = Settings.model_fields[name].description or ""
    assert len(description) > 15
    assert description == description.strip()


def test_a_user_without_a_home_can_load_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    given(monkeypatch)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    assert load().state_dir == Path(tempfile.gettempdir(), "contact-exports")


def test_failpoints_need_to_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(monkeypatch, FAILPOINTS="claimed:kill") == {"FAILPOINTS": "needs ALLOW_FAILPOINTS=1"}
    given(monkeypatch, ALLOW_FAILPOINTS="1")
    assert load().failpoints == "claimed:kill"


def test_a_failpoint_that_is_not_there_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(monkeypatch, ALLOW_FAILPOINTS="1", FAILPOINTS="claimed:kill,nowhere:kill").keys() == {"FAILPOINTS"}


def test_parts_may_be_small_only_where_failpoints_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(monkeypatch, PART_SIZE="16KiB") == {"PART_SIZE": "must be at least 5MiB"}
    given(monkeypatch, ALLOW_FAILPOINTS="1")
    assert load().part_size == 16 * 1024
    assert faults(monkeypatch, PART_SIZE="15KiB").keys() == {"PART_SIZE"}
