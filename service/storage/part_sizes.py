"""The arithmetic of one upload's parts: all have the part size, only the last may be smaller."""

from service.storage import MAXIMUM_PARTS


class PartSizes:
    """The sizes of the parts put so far. Its errors are ValueErrors: what they report is a fault of the caller."""

    def __init__(self, part_size: int) -> None:
        self._part_size = part_size
        self._sizes: dict[int, int] = {}

    def offset(self, number: int, size: int) -> int:
        """Where part `number` of `size` bytes begins in the object. Raises ValueError where there can be none."""
        if not 1 <= number <= MAXIMUM_PARTS or size > self._part_size:
            raise ValueError(f"part {number} of {size} bytes: parts are 1 to {MAXIMUM_PARTS} of {self._part_size} bytes")
        return (number - 1) * self._part_size

    def record(self, number: int, size: int) -> None:
        """Note that the part is stored; a part stored again replaces the earlier one."""
        self._sizes[number] = size

    def total(self) -> int:
        """The object's size in bytes. Raises ValueError if a part is missing or one before the last is small."""
        last = len(self._sizes)
        if sorted(self._sizes) != list(range(1, last + 1)) or not last:
            raise ValueError("the parts of an upload are numbered from 1 without a gap")
        if any(size != self._part_size for number, size in self._sizes.items() if number != last):
            raise ValueError("only the last part of an upload may be smaller than the part size")
        return sum(self._sizes.values())
