"""Object store in an S3 bucket. Only this package imports aiobotocore and botocore."""

from service.storage.s3.settings import S3Settings
from service.storage.s3.store import S3Store

__all__ = ["S3Settings", "S3Store"]
