"""What `S3Store.open` needs to know about a bucket."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

AddressingStyle = Literal["auto", "path", "virtual"]
Checksums = Literal["when_required", "when_supported"]
Encryption = Literal["AES256", "aws:kms", "aws:kms:dsse"]


@dataclass(frozen=True, slots=True)
class S3Settings:
    """A bucket, how to reach it, and the deadlines of its calls.

    Credentials are not part of it: the client library finds them (environment, files, metadata service).
    """

    bucket: str
    prefix: str = ""
    """Object names are relative to it. Slashes at both ends are ignored."""
    endpoint_url: str | None = None
    """None: AWS's endpoint of the region."""
    public_endpoint_url: str | None = None
    """The endpoint in download links. None: `endpoint_url`."""
    region: str = "us-east-1"
    addressing_style: AddressingStyle = "auto"
    checksums: Checksums = "when_required"
    """`when_supported` sends CRC32 instead of Content-MD5; some stores refuse it."""
    sign_payload: bool | None = None
    """None: only over HTTP, because SHA-256 costs CPU and TLS already protects the bytes."""
    encryption: Encryption | None = None
    """How the store encrypts objects. None: the default of the bucket."""
    kms_key_id: str | None = None
    """Only with one of the kms encryptions. None: the account's key for S3."""
    operation_timeout: timedelta = timedelta(minutes=1)
    complete_timeout: timedelta = timedelta(minutes=2)
    """Deadline of CompleteMultipartUpload: a store may need minutes to join thousands of parts."""

    @property
    def folder(self) -> str:
        """The prefix of all keys: empty, or ending in one slash."""
        prefix = self.prefix.strip("/")
        return f"{prefix}/" if prefix else ""
