"""The settings. Only `service.process` and the commands use them; others get plain values."""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import AliasChoices, ByteSize, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import failpoints, setting_types
from service.listen_address import DEFAULT_HOST, DEFAULT_PORT
from service.setting_types import (
    HttpUrl,
    Limit,
    LinkSecret,
    Origins,
    PostgresUrl,
    RateLimitStorageUrl,
    Seconds,
    StorageUrl,
    checked_endpoint,
    state_dir,
)
from service.storage import MINIMUM_PART_SIZE

T = TypeVar("T")
MIB = 1024 * 1024
_SMALLEST_PART_OF_TESTS = 16 * 1024


class SettingsError(Exception):
    """Invalid settings. The message names each invalid setting and never contains a value."""


class Settings(BaseSettings):
    """Each field is read from the environment variable of that name in capitals, a secret also from the file NAME_FILE."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", hide_input_in_errors=True)

    database_url: PostgresUrl | None = Field(
        None, description="Main database, postgresql://… May point to a connection pooler if DATABASE_DIRECT_URL does not."
    )
    storage_url: StorageUrl | None = Field(
        None, description="Where files are stored: s3://bucket/prefix or file:///absolute/path."
    )
    state_dir: Path = Field(
        default_factory=state_dir,
        description="Directory of the embedded Postgres and its files; used if neither DATABASE_URL nor STORAGE_URL is set.",
    )
    database_direct_url: PostgresUrl | None = Field(
        None, description="Main database without a pooler, for connections that need a session. Defaults to DATABASE_URL."
    )
    contacts_database_url: PostgresUrl | None = Field(
        None,
        description="Database of contacts, contact_emails and comet_tokens; no pooler. Defaults to the main database.",
    )
    contacts_pool_size: int = Field(
        4, ge=1, le=64, description="Connections to the contacts database for GET /contacts and GET /contacts/{id}."
    )
    contacts_timeout_seconds: Seconds = Field(
        5, description="Longest time that GET /contacts and GET /contacts/{id} wait for the contacts database."
    )
    migrate_on_start: bool = Field(
        True, description="Apply missing migrations when `serve` starts. If false, run `contact-exports migrate`."
    )
    allow_failpoints: bool = Field(False, description="For tests: accept FAILPOINTS and a PART_SIZE down to 16KiB.")
    failpoints: str | None = Field(
        None,
        description="For tests: points at which this process dies, stalls or gets an error; see service/failpoints.py.",
    )

    s3_endpoint_url: HttpUrl | None = Field(None, description="S3 endpoint. Defaults to the region's AWS endpoint.")
    s3_public_endpoint_url: HttpUrl | None = Field(
        None, description="S3 endpoint in download links. Defaults to S3_ENDPOINT_URL."
    )
    s3_region: str = Field(
        "us-east-1",
        validation_alias=AliasChoices("S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"),
        description="Region that requests are signed for. AWS_REGION and AWS_DEFAULT_REGION are also read.",
    )
    s3_addressing_style: Literal["auto", "path", "virtual"] = Field(
        "auto", description="Bucket name in the path or in the host name of S3 requests: auto, path or virtual."
    )
    s3_checksum: Literal["when_required", "when_supported"] = Field(
        "when_required", description="Whether uploads carry additional checksums. Some stores refuse them."
    )
    s3_sign_payload: bool | None = Field(
        None, description="Sign the bytes of each part. Defaults to true for http:// endpoints; TLS protects the others."
    )
    part_size: ByteSize = Field(
        ByteSize(8 * MIB),
        le=1024 * MIB,
        description="Upload part size (bytes, or e.g. 8MiB), from 5MiB to 1GiB."
        " Increased automatically if an export would need more than 10,000 parts.",
    )
    link_seconds: int = Field(900, ge=1, le=604_800, description="Lifetime of a download link, in seconds.")
    link_secret: LinkSecret | None = Field(
        None,
        description="Key that signs download links of a file:// store: 32 random bytes as hex or base64"
        " (openssl rand -hex 32). Defaults to a random key stored in the database.",
    )
    s3_sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(
        None, description="Encryption that the store must apply to files. Defaults to what the bucket applies."
    )
    s3_kms_key_id: str | None = Field(
        None, description="KMS key for S3_SSE=aws:kms or aws:kms:dsse. Defaults to the account's key for S3."
    )
    public_url: HttpUrl | None = Field(
        None, description="Base URL at which consumers reach the service. Defaults to scheme and host of the request."
    )

    host: str = Field(DEFAULT_HOST, description="Address to listen on.")
    port: int = Field(DEFAULT_PORT, ge=0, le=65535, description="Port to listen on. 0 selects a free port.")
    admin_host: str = Field("127.0.0.1", description="Address of the operator's port: metrics, health checks and a page.")
    admin_port: int = Field(8082, ge=0, le=65535, description="The operator's port. 0 switches it off.")
    admin_token: setting_types.AdminToken | None = Field(
        None, description="Password of the operator's page. Without it the page is read-only and needs a loopback name."
    )
    api_docs: bool = Field(True, description="Serve the description of the API at /openapi.json and /docs.")
    cors_origins: Origins | None = Field(
        None, description="Origins whose pages may call the API in browsers, separated by commas. None by default."
    )
    max_connections: int = Field(
        1000,
        ge=128,
        le=65_536,
        description="Most client connections at once. Lowered if the limit of file descriptors leaves fewer.",
    )
    rate_limit_create: Limit = Field("5/minute", description="Limit on creating exports, per Space.")
    rate_limit_status: Limit = Field("30/minute", description="Limit on status calls, per Space.")
    rate_limit_other: Limit = Field(
        "30/minute", description="Limit on listing, cancelling and downloading exports together, per Space."
    )
    rate_limit_contacts: Limit = Field("15/minute", description="Limit on listing contacts, per Space.")
    rate_limit_contact: Limit = Field("30/minute", description="Limit on getting single contacts, per Space.")
    rate_limit_storage_url: RateLimitStorageUrl = Field(
        SecretStr("async+postgres://"),
        description="Where rate limits are counted: async+postgres:// (the main database), async+redis://… or async+memory://.",
    )
    max_range_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="Longest date range of an export or a list of contacts, in days. Unlimited by default.",
    )

    export_slots: int = Field(
        4, ge=0, le=64, description="Exports that this process runs concurrently. With 0 it only serves HTTP requests."
    )
    space_slots: int = Field(2, ge=1, le=64, description="Exports of one Space that run concurrently, over all processes.")
    space_queue_limit: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Most exports of one Space that may be queued; further creations get 429. Unlimited by default.",
    )
    max_attempts: int = Field(5, ge=1, le=100, description="Number of attempts after which an export fails.")
    retry_seconds: Seconds = Field(5, description="Delay before the first retry. Doubles with each retry, up to 15 minutes.")
    lease_seconds: Seconds = Field(30, description="Lease duration of a running export. Renewed every quarter of it.")
    poll_seconds: Seconds = Field(5, description="How often an idle process polls for jobs that other processes queued.")
    sweep_seconds: Seconds = Field(
        10, description="How often each process checks for expired leases and deletes their leftovers."
    )
    no_progress_seconds: Seconds = Field(
        300, description="An attempt that makes no progress for this long is aborted and retried."
    )
    max_export_seconds: Seconds = Field(7200, description="Longest duration of one attempt.")
    fetch_timeout_seconds: Seconds = Field(120, description="Statement timeout of one fetch from the contacts database.")
    complete_until_slack: float = Field(
        5,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds subtracted from `complete_until`, for applications that set `created_at` themselves:"
        " clocks differ, and the transaction starts later.",
    )
    file_lifetime_hours: float = Field(
        24, ge=0.001, le=876_000, allow_inf_nan=False, description="How long the file of a completed export is kept."
    )
    history_days: float = Field(
        90, ge=0.001, le=36_500, allow_inf_nan=False, description="How long the rows of ended exports are kept."
    )
    grace_seconds: setting_types.SecondsFromZero = Field(
        8, description="How long running exports continue after SIGTERM. Then they are handed back to the queue."
    )

    webhook_slots: int = Field(
        32, ge=0, le=1000, description="Webhooks that this process sends at once. With 0 it sends none."
    )
    webhook_timeout_seconds: Seconds = Field(15, le=60, description="Longest wait for the response to a webhook.")
    webhook_allow_hosts: setting_types.AllowedHosts | None = Field(
        None, description="Hosts (`host` or `host:port`, comma-separated) that webhooks may reach at any address and port."
    )
    webhook_allow_networks: setting_types.AllowedNetworks | None = Field(
        None, description="Networks (such as 10.1.0.0/16, comma-separated) that webhooks may reach at any port."
    )
    webhook_ca_file: Path | None = Field(None, description="Further certificate authorities (PEM) that webhooks trust.")
    webhook_proxy: setting_types.ProxyUrl | None = Field(
        None, description="HTTP proxy of webhooks, http://[user:password@]host:port. It must restrict where they go."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum log level.")
    log_format: Literal["json", "console"] = Field("json", description="One JSON object per line, or readable text.")

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
        return value if value is None else checked_endpoint(value, others.data)

    @field_validator("s3_sse")
    @classmethod
    def _encryption_belongs_to_s3(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is not None and (others.data.get("storage_url") or "").startswith("file:"):
            raise ValueError("needs STORAGE_URL=s3://…")
        return value

    @field_validator("s3_kms_key_id")
    @classmethod
    def _key_belongs_to_kms(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is not None and others.data.get("s3_sse") not in ("aws:kms", "aws:kms:dsse"):
            raise ValueError("needs S3_SSE=aws:kms or S3_SSE=aws:kms:dsse")
        return value

    @property
    def dsn(self) -> str:
        """Address of the main database. Raises SettingsError if it is not set."""
        return _required("DATABASE_URL", self.database_url).get_secret_value()

    @property
    def direct_dsn(self) -> str:
        """Address of the main database without a pooler. Raises SettingsError if it is not set."""
        return self.database_direct_url.get_secret_value() if self.database_direct_url else self.dsn

    @property
    def contacts_dsn(self) -> str:
        """Address of the contacts database. Raises SettingsError if it is not set."""
        return self.contacts_database_url.get_secret_value() if self.contacts_database_url else self.direct_dsn

    @property
    def files_url(self) -> str:
        """Address of the file storage. Raises SettingsError if it is not set."""
        return _required("STORAGE_URL", self.storage_url)


def _required(name: str, value: T | None) -> T:
    if value is None:
        raise SettingsError(f"{name} is required")
    return value
