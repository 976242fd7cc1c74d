"""Conditions of plans are split and become elements of indexes; parentheses and quotes in values mislead nothing."""

import pytest

from service.postgres.plan_expressions import bare, conjuncts, index_expression, sides, without_alias
from service.postgres.wanted_indexes import WantedIndex

WANTED = WantedIndex("crm", "people", ("space", "created", "id"), ("gone IS NULL",), "contacts", ordered=True)


@pytest.mark.parametrize(
    ("condition", "parts"),
    [
        ("(a = 1)", ["a = 1"]),
        ("((a = 1) AND (b IS NULL))", ["a = 1", "b IS NULL"]),
        ("((a = ') AND ('::text) AND (b = 2))", ["a = ') AND ('::text", "b = 2"]),
        ("((a = 1) OR ((b = 2) AND (c = 3)))", ["(a = 1) OR ((b = 2) AND (c = 3))"]),
        ('("x AND y".a IS NULL) AND b', ['"x AND y".a IS NULL', "b"]),
    ],
)
def test_a_condition_is_split_at_each_and_outside_of_parentheses_and_quotes(condition: str, parts: list[str]) -> None:
    assert list(conjuncts(condition)) == parts


@pytest.mark.parametrize(
    ("condition", "both"),
    [
        ("(p.a = t.b)", ("p.a", "t.b")),
        ("(COALESCE(p.a, p.b) = c.id)", ("COALESCE(p.a, p.b)", "c.id")),
        ("(p.a = ' = '::text)", ("p.a", "' = '::text")),
        ("(p.a >= 3)", ()),
        ("(p.a IS NULL)", ()),
        ("((p.a = 1) OR (p.b = 2))", ()),
    ],
)
def test_an_equation_has_two_sides(condition: str, both: tuple[str, ...]) -> None:
    assert sides(condition) == both


def test_only_parentheses_around_the_whole_text_are_removed() -> None:
    assert [bare(text) for text in ("((a))", "(a) + (b)", "')'", "(')')")] == ["a", "(a) + (b)", "')'", "')'"]


def test_the_alias_is_removed_from_names_only() -> None:
    assert without_alias("(lower(p.mail) || 'p.x' || up.a)", "p") == "lower(mail) || 'p.x' || up.a"
    assert without_alias('"P x".mail', "P x") == "mail"


@pytest.mark.parametrize(
    ("expression", "element"),
    [
        ("created", "created"),
        ('"Key" COLLATE "C"', '"Key" COLLATE "C"'),
        ("last_seen_at DESC NULLS LAST", "last_seen_at DESC NULLS LAST"),
        ("created AT TIME ZONE 'UTC'::text", "(created AT TIME ZONE 'UTC'::text)"),
        ("lower(mail) DESC", "(lower(mail)) DESC"),
    ],
)
def test_an_element_of_an_index_has_parentheses_unless_it_is_a_name(expression: str, element: str) -> None:
    assert index_expression(expression) == element


@pytest.mark.parametrize(
    ("keys", "predicate", "alike"),
    [
        (["space", "created", "id"], "", True),
        (["space", "created", "id", "mail"], "(gone IS NULL)", True),
        (["space", "id", "created"], "", False),
        (["space"], "", False),
        (["space", "created", "id"], "(mail IS NOT NULL)", False),
    ],
)
def test_an_index_serves_if_it_begins_with_the_expressions_and_covers_all_rows(
    keys: list[str], predicate: str, *, alike: bool
) -> None:
    assert WANTED.is_like(keys, predicate) is alike
