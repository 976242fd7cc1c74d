"""Part sizes and offsets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.storage.part_sizes import PartSizes


@given(part_size=st.integers(1, 50), size=st.integers(0, 500), seed=st.randoms(use_true_random=False))
def test_parts_in_any_order_add_up_to_the_object(part_size: int, size: int, seed: object) -> None:
    data = bytes(index % 251 for index in range(size))
    pieces = [data[start : start + part_size] for start in range(0, size, part_size)] or [b""]
    numbered = list(enumerate(pieces, 1))
    seed.shuffle(numbered)  # type: ignore[attr-defined]
    sizes, stored = PartSizes(part_size), bytearray(size)
    for number, piece in numbered:
        offset = sizes.offset(number, len(piece))
        stored[offset : offset + len(piece)] = piece
        sizes.record(number, len(piece))
    assert (sizes.total(), bytes(stored)) == (size, data)


@pytest.mark.parametrize(("number", "size"), [(0, 1), (-1, 1), (10_001, 1), (1, 11)])
def test_a_part_with_a_forbidden_number_or_size_is_refused(number: int, size: int) -> None:
    with pytest.raises(ValueError, match="numbers are 1 to 10000, sizes at most 10 bytes"):
        PartSizes(10).offset(number, size)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({}, "without a gap"), ({2: 10}, "without a gap"), ({1: 10, 3: 1}, "without a gap"), ({1: 9, 2: 10}, "only the last")],
)
def test_incomplete_parts_have_no_total(sizes: dict[int, int], message: str) -> None:
    parts = PartSizes(10)
    for number, size in sizes.items():
        parts.record(number, size)
    with pytest.raises(ValueError, match=message):
        parts.total()
