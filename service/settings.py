"""Settings, read from the environment. Only `service.process` and the commands use them; other modules get plain values."""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

import limits
from pydantic import (
    AfterValidator,
    AliasChoices,
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import failpoints
from service.storage import MINIMUM_PART_SIZE

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
T = TypeVar("T")
MIB = 1024 * 1024
_SMALLEST_PART_OF_TESTS = 16 * 1024


class SettingsError(Exception):
    """The settings cannot be used; the text names every faulty one and never a value."""


def _split(value: str) -> SplitResult:
    try:
        return urlsplit(value)
    except ValueError:
        # The reason quotes what stands before the host: a password, perhaps.
        raise ValueError("is not a URL") from None


def _postgres_url(value: SecretStr) -> SecretStr:
    if _split(value.get_secret_value()).scheme not in ("postgresql", "postgres"):
        raise ValueError("must be a URL that starts with postgresql://")
    return value


def _storage_url(value: str) -> str:
    parts = _split(value)
    in_bucket = parts.scheme == "s3" and parts.netloc
    in_directory = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/") and parts.path.strip("/")
    if (in_bucket or in_directory) and not parts.query and not parts.fragment:
        return value.rstrip("/")
    raise ValueError("must be s3://bucket/prefix or file:///absolute/path")


def _http_url(value: str) -> str:
    parts = _split(value)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be a URL that starts with http:// or https:// and has no query")
    return value.rstrip("/")


def _rate_limit_storage_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("async+postgres://", "async+redis://", "async+memory://")):
        raise ValueError("must be async+postgres://, async+redis://… or async+memory://")
    return value


def _limit(value: str) -> str:
    try:
        (limit,) = limits.parse_many(value)
        if limit.amount > 0:
            return value
    except ValueError:
        pass
    raise ValueError("must be a limit such as 5/minute")


def _state_dir() -> Path:
    try:
        home = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    except RuntimeError:  # a numeric user of a container has no home
        home = Path(tempfile.gettempdir())
    return home / "contact-exports"


Limit = Annotated[str, AfterValidator(_limit)]
PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]


class Settings(BaseSettings):
    """Each field is the environment variable of the same name in capitals; secrets also as NAME_FILE, a file's path."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", hide_input_in_errors=True)

    database_url: PostgresUrl | None = Field(
        None, description="The main database, postgresql://…; may lead through a pooler if DATABASE_DIRECT_URL does not."
    )
    storage_url: Annotated[str, AfterValidator(_storage_url)] | None = Field(
        None, description="Where files go: s3://bucket/prefix or file:///absolute/path."
    )
    state_dir: Path = Field(
        default_factory=_state_dir,
        description="Where the embedded Postgres and files live; used with neither DATABASE_URL nor STORAGE_URL.",
    )
    database_direct_url: PostgresUrl | None = Field(
        None, description="The main database without a pooler, for what needs a session; default DATABASE_URL."
    )
    contacts_database_url: PostgresUrl | None = Field(
        None,
        description="Where contacts, contact_emails and comet_tokens are, if not in the main database; without a pooler.",
    )
    migrate_on_start: bool = Field(
        True, description="Apply missing migrations when `serve` starts; if false, `contact-exports migrate` does."
    )

    allow_failpoints: bool = Field(False, description="For tests: accept FAILPOINTS, and a PART_SIZE down to 16KiB.")
    failpoints: str | None = Field(
        None, description="For tests: where this process dies, stands still or meets an error; see service/failpoints.py."
    )

    s3_endpoint_url: HttpUrl | None = Field(
        None, description="The S3 endpoint the service talks to; default the one of the region."
    )
    s3_public_endpoint_url: HttpUrl | None = Field(
        None, description="The S3 endpoint that download links name; default S3_ENDPOINT_URL."
    )
    s3_region: str = Field(
        "us-east-1",
        validation_alias=AliasChoices("S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"),
        description="The region that requests are signed for; default AWS_REGION or AWS_DEFAULT_REGION.",
    )
    s3_addressing_style: Literal["auto", "path", "virtual"] = Field(
        "auto", description="Bucket in the path or in the host name."
    )
    s3_checksum: Literal["when_required", "when_supported"] = Field(
        "when_required", description="Whether uploads carry additional checksums; some stores refuse them."
    )
    s3_sign_payload: bool = Field(
        True, description="Sign the bytes of each part; false saves CPU where the store accepts it."
    )
    part_size: ByteSize = Field(
        ByteSize(8 * MIB),
        le=1024 * MIB,
        description="Size of an upload part, in bytes or as 8MiB; raised by itself where 10,000 parts would not do.",
    )
    link_seconds: int = Field(900, ge=1, le=604_800, description="How long a download link works.")
    link_secret: SecretStr | None = Field(
        None, min_length=16, description="Signs the links of a file:// store; default a secret made with the database."
    )
    public_url: HttpUrl | None = Field(
        None, description="The address consumers reach the service at; default scheme and host of the request."
    )

    host: str = Field("127.0.0.1", description="Address to listen at.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen at; 0 takes a free one.")
    rate_limit_create: Limit = Field("5/minute", description="Exports a Space may create.")
    rate_limit_status: Limit = Field("30/minute", description="Status calls a Space may make.")
    rate_limit_other: Limit = Field("30/minute", description="Calls a Space may make that list or cancel exports, together.")
    rate_limit_storage_url: Annotated[SecretStr, AfterValidator(_rate_limit_storage_url)] = Field(
        SecretStr("async+postgres://"),
        description="async+postgres:// (the main database), async+redis://… or async+memory://",
    )
    max_range_days: int | None = Field(None, ge=1, description="Longest range an export may ask for; default none.")

    export_slots: int = Field(4, ge=0, le=64, description="Exports this process runs at once; 0 takes requests only.")
    space_slots: int = Field(2, ge=1, le=64, description="Exports of one Space that run at once, all processes together.")
    max_attempts: int = Field(5, ge=1, le=100, description="Attempts before an export fails.")
    retry_seconds: Seconds = Field(
        5, description="Pause before the second attempt after an error; doubles, to at most 15 minutes."
    )
    lease_seconds: Seconds = Field(30, description="How long a claim holds without renewal; renewed every quarter of it.")
    poll_seconds: Seconds = Field(5, description="How often an idle process looks for jobs of other processes.")
    sweep_seconds: Seconds = Field(10, description="How often each process looks for dead claims and their leftovers.")
    no_progress_seconds: Seconds = Field(
        300, description="An attempt that gets nowhere for this long is ended and tried again."
    )
    max_export_seconds: Seconds = Field(7200, description="Longest duration of one attempt.")
    fetch_timeout_seconds: Seconds = Field(120, description="Statement timeout of one read from the contacts' database.")
    file_lifetime_hours: float = Field(24, gt=0, allow_inf_nan=False, description="How long a file is kept.")
    history_days: float = Field(
        90, gt=0, le=36500, allow_inf_nan=False, description="How long rows of exports are kept after their end."
    )
    grace_seconds: float = Field(
        8,
        ge=0,
        allow_inf_nan=False,
        description="How long running exports may go on after SIGTERM before they are handed back.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity that is logged.")
    log_format: Literal["json", "console"] = Field("json", description="One JSON object a line, or text for people.")

    @field_validator("failpoints")
    @classmethod
    def _failpoints_are_allowed(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is not None:
            if not others.data.get("allow_failpoints"):
                raise ValueError("needs ALLOW_FAILPOINTS=1")
            failpoints.rules(value)
        return value

    @field_validator("part_size")
    @classmethod
    def _part_is_large_enough(cls, value: ByteSize, others: ValidationInfo) -> ByteSize:
        if value < (_SMALLEST_PART_OF_TESTS if others.data.get("allow_failpoints") else MINIMUM_PART_SIZE):
            raise ValueError("must be at least 5MiB")
        return value

    @field_validator("s3_endpoint_url", "s3_public_endpoint_url")
    @classmethod
    def _endpoint_belongs_to_s3(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is not None and (others.data.get("storage_url") or "").startswith("file:"):
            raise ValueError("needs STORAGE_URL=s3://…")
        return value

    @property
    def dsn(self) -> str:
        """The main database."""
        return _needed("DATABASE_URL", self.database_url).get_secret_value()

    @property
    def direct_dsn(self) -> str:
        """The main database without a pooler."""
        return self.database_direct_url.get_secret_value() if self.database_direct_url else self.dsn

    @property
    def contacts_dsn(self) -> str:
        """The database that holds the contacts."""
        return self.contacts_database_url.get_secret_value() if self.contacts_database_url else self.direct_dsn

    @property
    def files_url(self) -> str:
        """Where files go."""
        return _needed("STORAGE_URL", self.storage_url)


def load() -> Settings:
    """The settings of this process's environment. Raises SettingsError naming every fault at once."""
    secrets, faults = _secrets_from_files()
    try:
        settings = Settings(**secrets)
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False, include_context=False):
            name = "".join(str(part) for part in fault["loc"][:1]).upper()
            # What is said of a size quotes its unit.
            unit = fault["type"] == "byte_size_unit"
            text = "must be a size such as 8MiB" if unit else fault["msg"].removeprefix("Value error, ")
            faults.append(f"{name} {text}")
    if faults:
        raise SettingsError("\n".join(faults))
    return settings


def _secrets_from_files() -> tuple[dict[str, Any], list[str]]:
    """What NAME_FILE variables hold, and the faults in reading them."""
    secrets: dict[str, Any] = {}
    faults = []
    for name in ("database_url", "database_direct_url", "contacts_database_url", "link_secret", "rate_limit_storage_url"):
        variable = f"{name.upper()}_FILE"
        if not (path := os.environ.get(variable)):
            continue
        if os.environ.get(name.upper()):
            faults.append(f"{variable} and {name.upper()} are both set")
        try:
            secrets[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError):
            faults.append(f"{variable} names a file that cannot be read")
    return secrets, faults


def _needed(name: str, value: T | None) -> T:
    if value is None:
        raise SettingsError(f"{name} is required")
    return value
