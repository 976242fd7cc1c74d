"""Files in a local directory, served by this service through signed links."""

from service.storage.directory.store import DirectoryStore, LocalFile

__all__ = ["DirectoryStore", "LocalFile"]
