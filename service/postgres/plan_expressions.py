"""Conditions and expressions as they stand in a plan: splits them, and makes elements of an index from them."""

import re
from collections.abc import Iterator

_VALUE = r"'(?:[^']|'')*'"
_SIMPLE_NAME = re.compile(r"\w+|\"[^\"]+\"")


def without_alias(text: str, alias: str) -> str:
    """An expression that names columns of one table only, without the alias of that table."""
    return bare(renamed(text, alias, ""))


def renamed(text: str, alias: str, name: str) -> str:
    """The text with another name of a table instead of its alias; without any if `name` is empty. Values are unchanged."""
    prefix = rf"(?<![\w.\"])(?:{re.escape(alias)}|\"{re.escape(alias)}\")\."
    return re.sub(rf"{_VALUE}|{prefix}", lambda found: found[0] if found[0][0] == "'" else name and f"{name}.", text)


def names_before_a_dot(text: str) -> set[str]:
    """The names of tables in an expression, without their quotes."""
    return {name.strip('"') for name in re.findall(r"(?<![\w.])(\w+|\"[^\"]+\")\.", re.sub(_VALUE, "", text))}


def index_expression(text: str) -> str:
    """An element of an index: a name as it is, anything else in parentheses; collation and order come after."""
    match = re.fullmatch(r"(.*?)((?: COLLATE (?:\w+|\"[^\"]+\"))?(?: DESC)?(?: NULLS (?:LAST|FIRST))?)", text)
    assert match is not None
    expression, order = match.groups()
    return (expression if _SIMPLE_NAME.fullmatch(expression) else f"({bare(expression)})") + order


def sides(condition: str) -> tuple[str, str] | tuple[()]:
    """Both sides of an equation; empty for any other condition."""
    condition = bare(condition)
    for at, character, depth in _outside_quotes(condition):
        if depth == 0 and character == "=" and condition[at - 1 : at + 2] == " = ":
            return bare(condition[: at - 1]), bare(condition[at + 2 :])
    return ()


def conjuncts(condition: str) -> Iterator[str]:
    """The conditions that AND joins, without their parentheses."""
    text, start = bare(condition), 0
    for at, character, depth in _outside_quotes(text):
        if depth == 0 and character == "A" and text[at - 1 : at + 4] == " AND ":
            yield bare(text[start : at - 1])
            start = at + 4
    yield bare(text[start:])


def bare(text: str) -> str:
    """The text without the parentheses around all of it."""
    while text.startswith("(") and text.endswith(")"):
        if any(depth == 0 for at, _, depth in _outside_quotes(text) if at < len(text) - 1):
            return text
        text = text[1:-1]
    return text


def _outside_quotes(text: str) -> Iterator[tuple[int, str, int]]:
    """Place, character and depth of parentheses for each character outside of quotes."""
    depth, quote = 0, ""
    for at, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character == "(") - (character == ")")
            yield at, character, depth
