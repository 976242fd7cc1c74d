"""Files in a bucket of any store that speaks S3. Only this package knows aiobotocore and botocore."""

from service.storage.s3.store import S3Store

__all__ = ["S3Store"]
