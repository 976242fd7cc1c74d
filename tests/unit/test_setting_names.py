"""Variables that resemble a setting are named, and those of other programs are not."""

import pytest

from service.setting_names import unknown_names
from service.setting_source import load, misspelt
from service.settings import Settings, SettingsError

SETTINGS = [name.upper() for name in Settings.model_fields]


def named(*variables: str) -> list[str]:
    """The sentences about these variables."""
    return unknown_names(variables, SETTINGS, ["DATABASE_URL", "LINK_SECRET"])


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("DATABASE_ULR", "DATABASE_URL"),
        ("DATABSE_URL", "DATABASE_URL"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("database_ulr", "DATABASE_URL"),
        ("DATABASE_URL_FIEL", "DATABASE_URL_FILE"),
        ("STORAGE_ULR", "STORAGE_URL"),
        ("EXPORT_SLOT", "EXPORT_SLOTS"),
        ("S3_ENDPOINT", "S3_ENDPOINT_URL"),
        ("LEASE_SECOND", "LEASE_SECONDS"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("PUBLIC_ULR", "PUBLIC_URL"),
        ("HOSTS", "HOST"),
    ],
)
def test_a_misspelt_setting_is_named_with_the_one_that_was_meant(variable: str, meant: str) -> None:
    assert named(variable) == [f"{variable} is not a setting; did you mean {meant}?"]


@pytest.mark.parametrize("variable", ["S3_BUCKET", "S3_SECRET_KEY", "DATABASE_HOST", "DATABASE_POOL", "s3_x"])
def test_an_unknown_name_with_our_beginning_is_named(variable: str) -> None:
    assert named(variable) == [f"{variable} is not a setting of this service."]


def test_only_secrets_have_files() -> None:
    assert named("STORAGE_URL_FILE") == ["STORAGE_URL_FILE is not a setting: only secrets can be read from a file."]
    assert named("LINK_SECRET_FILE") == []


@pytest.mark.parametrize(
    "variable",
    [
        *SETTINGS,
        *("PATH", "HOME", "HOSTNAME", "HOSTTYPE", "LOGNAME", "PWD", "LANG", "LINES", "TERM", "TMPDIR", "XDG_STATE_HOME"),
        *("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL", "PGHOST", "POSTGRES_BIN", "TEST_DATABASE_URL", "SMTP_HOST"),
        # What Kubernetes and container links set for services named `s3` and `database`.
        *("S3_PORT", "S3_SERVICE_HOST", "S3_SERVICE_PORT_HTTP", "S3_PORT_9000_TCP", "DATABASE_PORT_5432_TCP_ADDR"),
        *("DATABASE_SERVICE_PORT", "KUBERNETES_SERVICE_HOST", "CONTACT_EXPORTS_PORT"),
    ],
)
def test_settings_and_variables_of_other_programs_are_not_named(variable: str) -> None:
    assert named(variable) == []


def test_a_name_cannot_control_the_terminal() -> None:
    assert named("DATABASE_\x1b[2J") == ["'DATABASE_\\x1b[2J' is not a setting of this service."]


def test_values_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    assert "hunter2" not in "".join(misspelt())
    assert any("DATABASE_PASSWORD" in sentence for sentence in misspelt())


def test_invalid_settings_are_reported_with_the_misspelt_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORT_SLOT", "1")
    monkeypatch.setenv("PORT", "high")
    with pytest.raises(SettingsError) as caught:
        load()
    first, *others = str(caught.value).splitlines()
    assert first.startswith("PORT must be ")
    assert "EXPORT_SLOT is not a setting; did you mean EXPORT_SLOTS?" in others
