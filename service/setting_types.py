"""Types of settings: what the value of an environment variable must look like."""

import base64
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from annotated_types import Ge, Le
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from service import database_urls
from service.web.rate_limits import parse_limit
from service.webhooks.allowed import parse_hosts, parse_networks

_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?", re.ASCII)
_SHORTEST_TOKEN = 16
_S3_HOST = re.compile(
    r"[0-9a-f:.]*:[0-9a-f:.]*|([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.?", re.ASCII
)
_SECRET_BYTES = 32
_SECRET_VALUES = 16
"""Different byte values in a link secret. 32 random bytes have fewer once in 10^11 times; a repeated word does."""


def _split(value: str) -> SplitResult:
    try:
        return urlsplit(value)
    except ValueError:
        # The original message quotes the part before the host, which may be a password.
        raise ValueError("is not a URL") from None


def _postgres_url(value: SecretStr) -> SecretStr:
    return SecretStr(database_urls.translate(value.get_secret_value()))


def _origins(value: str) -> str:
    origins = [origin.strip() for origin in value.split(",") if origin.strip()]
    for origin in origins:
        parts = _split(origin)
        # A browser sends exactly this form: in lower case, without a default port, a path or a slash at the end.
        default_port = {"http": ":80", "https": ":443"}.get(parts.scheme)
        if default_port is None or not _ORIGIN.fullmatch(origin) or parts.netloc.endswith(default_port):
            raise ValueError("must be exact origins such as https://app.example, separated by commas")
    return ",".join(origins)


def _storage_url(value: str) -> str:
    parts = _split(value)
    in_bucket = parts.scheme == "s3" and parts.netloc and not set("@:") & set(parts.netloc)
    in_directory = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/") and parts.path.strip("/")
    if (in_bucket or in_directory) and not parts.query and not parts.fragment:
        return value.rstrip("/")
    raise ValueError("must be s3://bucket/prefix or file:///absolute/path")


def _http_url(value: str) -> str:
    parts = _split(value)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be a URL that starts with http:// or https:// and has no query")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or password")
    try:
        _ = parts.port
    except ValueError:
        # The original message quotes the port, which may be a part of a password.
        raise ValueError("must have a port from 0 to 65535, or none") from None
    return value.rstrip("/")


def _link_secret(value: SecretStr) -> SecretStr:
    secret = _decoded(value.get_secret_value())
    if len(secret) < _SECRET_BYTES or len(set(secret)) < _SECRET_VALUES:
        raise ValueError("must be 32 random bytes as hex or base64; make one with: openssl rand -hex 32")
    return value


def _decoded(text: str) -> bytes:
    """The bytes of hex or base64 text; empty if it is neither."""
    with suppress(ValueError):
        return bytes.fromhex(text)
    with suppress(ValueError):
        return base64.b64decode(
            text + "=" * (-len(text) % 4), altchars=b"-_" if set("-_") & set(text) else None, validate=True
        )
    return b""


def _admin_token(value: SecretStr) -> SecretStr:
    token = value.get_secret_value()
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("must be at least 16 visible ASCII characters; make one with: openssl rand -hex 32")
    return value


def _rate_limit_storage_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("async+postgres://", "async+redis://", "async+memory://")):
        raise ValueError("must be async+postgres://, async+redis://… or async+memory://")
    return value


def _allowed_hosts(value: str) -> str:
    parse_hosts(value)
    return value


def _allowed_networks(value: str) -> str:
    parse_networks(value)
    return value


def _proxy_url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    parts = _split(text)
    _http_url(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    if parts.path.strip("/"):
        raise ValueError("must have no path")
    return SecretStr(text.rstrip("/"))


def _limit(value: str) -> str:
    parse_limit(value)
    return value


def state_dir() -> Path:
    """The default of STATE_DIR: in the home directory, or among temporary files without one."""
    try:
        home = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    except RuntimeError:  # a numeric user in a container has no home directory
        return Path(tempfile.gettempdir(), f"contact-exports-{os.geteuid()}")
    return home / "contact-exports"


def checked_endpoint(value: str, others: Mapping[str, Any]) -> str:
    """An S3 endpoint that fits the settings before it. Raises ValueError."""
    if (others.get("storage_url") or "").startswith("file:"):
        raise ValueError("needs STORAGE_URL=s3://…")
    if not _S3_HOST.fullmatch(urlsplit(value).hostname or ""):
        raise ValueError("must have a host name of letters, digits, hyphens and dots: the S3 client accepts no other")
    if urlsplit(value).path != urlsplit(others.get("s3_endpoint_url", value) or "").path:
        raise ValueError("must have the path of S3_ENDPOINT_URL, because the store checks the path of a link")
    return value


def unusable_ca_bundle() -> list[str]:
    """An error line if the S3 client's AWS_CA_BUNDLE cannot be read; the client would not name the file."""
    path = os.environ.get("AWS_CA_BUNDLE")
    return [f"AWS_CA_BUNDLE names a file that cannot be read: {path}"] if path and not os.access(path, os.R_OK) else []


def number_range(field: FieldInfo) -> str | None:
    """The range of a number, such as `1 to 64`; None if the setting is no number."""
    lowest: list[Any] = [each.ge for each in field.metadata if isinstance(each, Ge)]
    highest: list[Any] = [each.le for each in field.metadata if isinstance(each, Le)]
    return f"{max(lowest):,} to {min(highest):,}" if lowest and highest else None


def faults(error: ValidationError, fields: Mapping[str, FieldInfo]) -> list[str]:
    """One line for each invalid setting: its name and what is wrong, without the value."""
    lines = []
    for detail in error.errors(include_input=False, include_url=False, include_context=False):
        name = "".join(str(part) for part in detail["loc"][:1])
        lines.append(f"{name.upper()} {_fault(fields.get(name.lower()), detail)}")
    return lines


def _fault(field: FieldInfo | None, detail: ErrorDetails) -> str:
    allowed = number_range(field) if field else None
    if detail["type"] == "byte_size_unit":  # the original message quotes the unit
        return "must be a size such as 8MiB"
    if allowed is not None and detail["type"] != "value_error":
        return f"must be a {'' if field and field.annotation is float else 'whole '}number from {allowed}"
    return detail["msg"].removeprefix("Value error, ")


LONGEST = 2_000_000
"""Longest time in seconds, 23 days: the server counts its timeouts in milliseconds, in 32 bits."""
Seconds = Annotated[float, Field(ge=0.01, le=LONGEST, allow_inf_nan=False)]
"""A time in seconds. The server would take less than a millisecond for no timeout."""
SecondsFromZero = Annotated[float, Field(ge=0, le=LONGEST, allow_inf_nan=False)]
Limit = Annotated[str, AfterValidator(_limit)]
"""A rate limit such as `5/minute`."""
PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
StorageUrl = Annotated[str, AfterValidator(_storage_url)]
RateLimitStorageUrl = Annotated[SecretStr, AfterValidator(_rate_limit_storage_url)]
LinkSecret = Annotated[SecretStr, AfterValidator(_link_secret)]
AllowedHosts = Annotated[str, AfterValidator(_allowed_hosts)]
AllowedNetworks = Annotated[str, AfterValidator(_allowed_networks)]
ProxyUrl = Annotated[SecretStr, AfterValidator(_proxy_url)]
"""The address of an HTTP proxy, with a user name and password if it needs them."""
AdminToken = Annotated[SecretStr, AfterValidator(_admin_token)]
Origins = Annotated[str, AfterValidator(_origins)]
