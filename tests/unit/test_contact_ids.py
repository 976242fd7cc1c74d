"""Ids of contacts as clients write them."""

import pytest

from service.postgres.contact_ids import IdType

UUID = "0123abCD-4567-89ef-0123-456789abcdef"


@pytest.mark.parametrize(
    ("id_type", "texts"),
    [
        (IdType.BIGINT, ["0", "7", "-1", str(2**63 - 1), str(-(2**63))]),
        (IdType.UUID, [UUID, UUID.lower(), UUID.upper()]),
        (IdType.TEXT, ["", "0", UUID, "a/b", "é", "\n"]),
    ],
)
def test_an_id_is_read_by_its_type(id_type: IdType, texts: list[str]) -> None:
    for text in texts:
        assert str(id_type.parse(text)) == text


@pytest.mark.parametrize(
    ("id_type", "texts"),
    [
        (
            IdType.BIGINT,
            ["", "-0", "00", "1.0", "1 ", "1\n", "\N{ARABIC-INDIC DIGIT ONE}", str(2**63), str(-(2**63) - 1), UUID],
        ),
        (IdType.UUID, ["", "1", UUID[:-1], UUID + "0", UUID + "\n", f"{{{UUID}}}", UUID.replace("-", ""), "é" * 36]),
        (IdType.TEXT, ["\0", "a\0b", "\ud800"]),
    ],
)
def test_text_that_the_type_cannot_have_is_no_id(id_type: IdType, texts: list[str]) -> None:
    for text in texts:
        assert id_type.parse(text) is None, text
