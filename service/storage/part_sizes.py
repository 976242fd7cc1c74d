"""Sizes and offsets of the parts of one upload. All parts have the part size; only the last may be smaller."""

from service.storage import MAXIMUM_PARTS


class PartSizes:
    """Sizes of the parts stored so far, in bytes. A ValueError from this class is a bug in the caller."""

    def __init__(self, part_size: int) -> None:
        self._part_size = part_size
        self._sizes: dict[int, int] = {}

    def offset(self, number: int, size: int) -> int:
        """Return the offset of part `number` in the object. Raises ValueError if the number or `size` is not allowed."""
        if not 1 <= number <= MAXIMUM_PARTS or size > self._part_size:
            raise ValueError(
                f"part {number} of {size} bytes: numbers are 1 to {MAXIMUM_PARTS}, sizes at most {self._part_size} bytes"
            )
        return (number - 1) * self._part_size

    def record(self, number: int, size: int) -> None:
        """Record that the part is stored. Storing a part again replaces the earlier one."""
        self._sizes[number] = size

    def total(self) -> int:
        """Return the object's size. Raises ValueError if a part is missing or a part before the last is too small."""
        last = len(self._sizes)
        if sorted(self._sizes) != list(range(1, last + 1)) or not last:
            raise ValueError("the parts of an upload must be numbered from 1 without a gap")
        if any(size != self._part_size for number, size in self._sizes.items() if number != last):
            raise ValueError("only the last part of an upload may be smaller than the part size")
        return sum(self._sizes.values())
