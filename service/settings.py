"""Settings from the environment. Read by `service.__main__` and `service.main` only; everything else gets plain values."""

from typing import Annotated, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
S = TypeVar("S", bound=BaseSettings)


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


def _rate_limit_storage_url(value: str) -> str:
    if not value.startswith(("async+postgres://", "async+redis://", "async+memory://")):
        raise ValueError("must be async+postgres://, async+redis://… or async+memory://")
    return value


PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]


class DatabaseSettings(BaseSettings):
    """What every command needs. Each field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", hide_input_in_errors=True)

    database_url: PostgresUrl = Field(
        description="The main database; may lead through PgBouncer if DATABASE_DIRECT_URL does not."
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

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity that is logged.")
    log_format: Literal["json", "console"] = Field("json", description="One JSON object a line, or text for people.")

    @property
    def direct_dsn(self) -> str:
        """The main database without a pooler."""
        return (self.database_direct_url or self.database_url).get_secret_value()

    @property
    def contacts_dsn(self) -> str:
        """The database that holds the contacts."""
        return self.contacts_database_url.get_secret_value() if self.contacts_database_url else self.direct_dsn


class StorageSettings(DatabaseSettings):
    """What the object store needs; a local one takes the secret of its links from the database."""

    storage_url: Annotated[str, AfterValidator(_storage_url)] = Field(
        description="s3://bucket/prefix or file:///absolute/path"
    )
    s3_endpoint_url: HttpUrl | None = Field(
        None, description="The S3 endpoint the service talks to; default the one of the region."
    )
    s3_public_endpoint_url: HttpUrl | None = Field(
        None, description="The S3 endpoint that download links name; default S3_ENDPOINT_URL."
    )
    s3_region: str = Field("us-east-1", description="The region that requests are signed for.")
    s3_addressing_style: Literal["auto", "path", "virtual"] = Field(
        "auto", description="Bucket in the path or in the host name."
    )
    s3_checksums: Literal["when_required", "when_supported"] = Field(
        "when_required", description="Whether uploads carry additional checksums; some stores refuse them."
    )
    s3_sign_payload: bool = Field(
        True, description="Sign the bytes of each part; false saves CPU where the store accepts it."
    )
    part_size_mib: int = Field(
        8, ge=5, le=1024, description="Size of an upload part in MiB; raised by itself where 10,000 parts would not do."
    )
    link_lifetime_seconds: int = Field(900, ge=1, le=604_800, description="How long a download link works.")
    link_secret: SecretStr | None = Field(
        None, min_length=16, description="Signs the links of a file:// store; default a secret made with the database."
    )

    @field_validator("s3_endpoint_url", "s3_public_endpoint_url")
    @classmethod
    def _endpoint_belongs_to_s3(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is not None and others.data.get("storage_url", "").startswith("file:"):
            raise ValueError("needs STORAGE_URL=s3://…")
        return value


class Settings(StorageSettings):
    """What `serve` needs."""

    public_url: HttpUrl | None = Field(
        None, description="The address consumers reach the service at; default scheme and host of the request."
    )

    host: str = Field("127.0.0.1", description="Address to listen at.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen at; 0 takes a free one.")
    rate_limit_storage_url: Annotated[str, AfterValidator(_rate_limit_storage_url)] = Field(
        "async+postgres://", description="async+postgres:// (the main database), async+redis://… or async+memory://"
    )
    create_limit_per_minute: int = Field(5, ge=1, le=10_000, description="Exports a Space may create within a minute.")
    status_limit_per_minute: int = Field(30, ge=1, le=10_000, description="Status calls a Space may make within a minute.")
    max_range_days: int | None = Field(None, ge=1, description="Longest range an export may ask for; default none.")

    slots: int = Field(4, ge=0, le=64, description="Exports this process runs at once; 0 takes requests only.")
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
    shutdown_grace_seconds: float = Field(
        8,
        ge=0,
        allow_inf_nan=False,
        description="How long running exports may go on after SIGTERM before they are handed back.",
    )


def load(kind: type[S]) -> S:
    """The settings of this process's environment. Raises SettingsError naming every fault at once."""
    try:
        return kind()
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_input=False, include_url=False, include_context=False):
            name = "".join(str(part) for part in fault["loc"][:1]).upper()
            text = "is required" if fault["type"] == "missing" else fault["msg"].removeprefix("Value error, ")
            faults.append(f"{name} {text}".strip())
        raise SettingsError("\n".join(faults)) from None
