"""Object store in a local directory. This service serves the files itself, through signed links."""

from service.storage.directory.store import DirectoryStore, LocalFile

__all__ = ["DirectoryStore", "LocalFile"]
