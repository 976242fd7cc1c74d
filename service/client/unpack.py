"""Decompresses a file as it arrives."""

from collections.abc import Iterator
from typing import cast

from isal import isal_zlib

from service.client.errors import WrongFile

_GZIP = 31
"""`wbits` for one gzip member."""
_PIECE = 1024 * 1024
"""Bytes. A small compressed chunk can contain a thousand times as many bytes, so they come in pieces."""


_IsalError = cast("type[Exception]", isal_zlib.error)  # its stub declares an instance


class Unpacker:
    """Decompresses one gzip member and counts its lines."""

    def __init__(self) -> None:
        self.rows = 0
        self._member = isal_zlib.decompressobj(wbits=_GZIP)

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """The content of further compressed bytes, in pieces that can end inside a line. Raises WrongFile."""
        while packed:
            try:
                piece = self._member.decompress(packed, _PIECE)
            except _IsalError as error:
                raise WrongFile(f"The received bytes are not valid gzip ({error}).") from None
            if self._member.unused_data:
                raise WrongFile("The received file has bytes after its gzip member.")
            packed = self._member.unconsumed_tail
            self.rows += piece.count(b"\n")
            if piece:
                yield piece

    def end(self) -> None:
        """Raises WrongFile if the member is incomplete."""
        if not self._member.eof:
            raise WrongFile("The received file ends inside its gzip member.")
