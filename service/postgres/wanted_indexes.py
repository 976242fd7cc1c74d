"""Which indexes the query of an export needs, read from plans of Postgres, which name tables and expressions beneath views.

A plan without index scans has every condition as a filter or as the condition of a join. The expressions of an index follow
from it. A plan that avoids sequential scans shows whether such an index exists.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.postgres.plan_expressions import (
    bare,
    conjuncts,
    index_expression,
    names_before_a_dot,
    renamed,
    sides,
    without_alias,
)

Plan = Mapping[str, Any]
_CONDITIONS = ("Filter", "Join Filter", "Hash Cond", "Merge Cond", "Index Cond", "Recheck Cond")
_PARTIAL = re.compile(r"\(?(?:NOT )?(\w+|\"[^\"]+\")\)?(?: IS (?:NOT )?NULL)?")
"""Conditions that an index may have in its WHERE clause: a column that is (not) null or (not) true."""
_LOOKUPS = ("comet_tokens", "contact_emails")
"""What the subqueries of an export read, in the order of the plan."""
_APPENDS = ("Append", "Merge Append")
_NUMBERED = re.compile(r"(.+)_\d+")
_OF_SESSION = re.compile(r"::timestamp with time zone|::timestamptz")
"""A cast from a time without zone depends on the session's time zone, so no index can contain it."""


@dataclass(frozen=True, slots=True)
class WantedIndex:
    """An index for one scan. `expressions` and `predicates` are SQL without table aliases; the first expression is compared.

    `ordered`: the index must also return the contacts in file order. `serves` is the relation of the contract.
    """

    schema: str
    table: str
    expressions: tuple[str, ...]
    predicates: tuple[str, ...]
    serves: str
    ordered: bool = False

    def definition(self) -> str:
        """The part of CREATE INDEX after the name of the table."""
        columns = ", ".join(map(index_expression, self.expressions))
        where = f" WHERE {' AND '.join(self.predicates)}" if self.predicates else ""
        return f"({columns}){where}"

    def is_like(self, keys: Sequence[str], predicate: str) -> bool:
        """Whether an index with these expressions and this WHERE clause serves as well. False for other collations."""
        needed = self.expressions if self.ordered else self.expressions[:1]
        return [bare(key) for key in keys[: len(needed)]] == list(needed) and (
            not predicate or set(conjuncts(predicate)) <= set(self.predicates)
        )

    @property
    def has_expression(self) -> bool:
        """Whether the index contains more than columns. Statistics of an expression exist only after ANALYZE."""
        return any(re.search(r"[(:]", expression) for expression in self.expressions)

    @property
    def impossible(self) -> bool:
        """Whether no index can have these expressions, because they depend on the time zone of a session."""
        return any(_OF_SESSION.search(expression) for expression in self.expressions)


@dataclass(frozen=True, slots=True)
class Unindexable:
    """A lookup that no index can serve, and why."""

    serves: str
    reason: str
    mend: str


@dataclass(frozen=True, slots=True)
class _Scan:
    schema: str
    table: str
    alias: str
    index_conditions: tuple[str, ...]


@dataclass(slots=True)
class _Area:
    """The main query or one of its subqueries: its scans, its conditions, and the keys of its outermost sort."""

    scans: dict[str, _Scan]
    conditions: list[str]
    sort_keys: tuple[str, ...] = ()


def wanted_indexes(plan: Plan, space_id: int) -> list[WantedIndex | Unindexable]:
    """The indexes for a query that was planned without index scans, in order of importance."""
    areas = _areas(plan)
    main = areas.pop("")
    found: list[WantedIndex | Unindexable] = [_for_contacts(main, space_id)]
    # A view can have subqueries of its own; then the order does not tell which relation a subquery reads.
    names = _LOOKUPS if len(areas) == len(_LOOKUPS) else ("contacts",) * len(areas)
    for relation, area in zip(names, areas.values(), strict=True):
        found += _for_lookup(relation, area, main)
    return found


def is_missing(wanted: WantedIndex, plan: Plan) -> bool:
    """Whether a plan that avoids sequential scans and sorts does not find the index."""
    areas = _areas(plan)
    if wanted.ordered and areas[""].sort_keys:
        return True
    scans = (scan for area in areas.values() for scan in area.scans.values() if scan.table == wanted.table)
    return not any(
        wanted.expressions[0] in (without_alias(side, scan.alias) for side in sides(condition))
        for scan in scans
        for condition in scan.index_conditions
    )


def is_sorted(plan: Plan) -> bool:
    """Whether the server sorts all contacts of the window before it returns the first one."""
    return bool(_areas(plan)[""].sort_keys)


def _for_contacts(main: _Area, space_id: int) -> WantedIndex | Unindexable:
    aliases = {alias for key in main.sort_keys[:1] for alias in _aliases(key, main.scans)}
    if len(aliases) != 1:
        reason = "created_at is not an expression of columns of one table, so no index has the order of the file"
        return Unindexable(
            "contacts", reason, "Store created_at in the table that has the contacts, or use a materialized view."
        )
    base = main.scans[aliases.pop()]
    equal = [each for each in map(sides, main.conditions) if each]
    fixed = [(left, _aliases(left, main.scans)) for left, right in equal if _is_constant(right, space_id)]
    own = [expression for expression, found in fixed if found == {base.alias}]
    others = set().union(*(found for _, found in fixed))
    joined = [
        mine
        for mine, other in _both_ways(equal)
        if _aliases(mine, main.scans) == {base.alias} and _aliases(other, main.scans) & others - {base.alias}
    ]
    if not own + joined:
        reason = "space_id is computed for each row, so no index finds the contacts of a Space"
        return Unindexable("contacts", reason, "Store space_id in the table that has the contacts.")
    order = tuple(without_alias(key, base.alias) for key in main.sort_keys if _aliases(key, main.scans) == {base.alias})
    lead = without_alias((own + joined)[0], base.alias)
    return WantedIndex(base.schema, base.table, (lead, *order), _predicates(main, base), "contacts", ordered=bool(own))


def _for_lookup(relation: str, area: _Area, main: _Area) -> Iterator[WantedIndex | Unindexable]:
    """The indexes for the rows of a contact, and for the tables that are joined to them."""
    equal = [each for each in map(sides, area.conditions) if each]
    bound: set[str] = set()
    for mine, other in _both_ways(equal):
        local = _aliases(mine, area.scans)
        if not _aliases(other, main.scans) or not local:
            continue
        if len(local) > 1:
            tables = " and ".join(sorted(area.scans[alias].table for alias in local))
            reason = f"{relation}.contact_id is computed from columns of {tables}, so no index finds the rows of a contact"
            yield Unindexable(
                relation, reason, "Compute contact_id from columns of one table, and name its columns in full."
            )
            return
        bound |= local
        (alias,) = local
        order = [key for key in area.sort_keys if _aliases(key, area.scans) == local and not key.startswith("(")]
        parts = (mine, *order) if len(order) == len(area.sort_keys) else (mine,)
        yield _lookup(relation, area, alias, parts)
    while step := next(_next_joined(equal, bound, area), None):
        alias, expression = step
        bound.add(alias)
        yield _lookup(relation, area, alias, (expression,))


def _lookup(relation: str, area: _Area, alias: str, parts: Sequence[str]) -> WantedIndex:
    scan = area.scans[alias]
    return WantedIndex(scan.schema, scan.table, tuple(without_alias(part, alias) for part in parts), (), relation)


def _next_joined(equal: Sequence[tuple[str, str]], bound: set[str], area: _Area) -> Iterator[tuple[str, str]]:
    for mine, other in _both_ways(equal):
        local, others = _aliases(mine, area.scans), _aliases(other, area.scans)
        if len(local) == 1 and not local & bound and others and others <= bound:
            yield next(iter(local)), mine


def _areas(plan: Plan) -> dict[str, _Area]:
    """The main query as "", and its subqueries by name, in the order of the plan."""
    areas = {"": _Area({}, [])}

    def visit(node: Plan, name: str, parent: str) -> None:
        if node.get("Parent Relationship") in ("SubPlan", "InitPlan"):
            name = node.get("Subplan Name", name)
        area = areas.setdefault(name, _Area({}, []))
        conditions = {kind: tuple(conjuncts(node[kind])) for kind in _CONDITIONS if kind in node}
        alias = node.get("Alias", "")
        if parent in _APPENDS and (match := _NUMBERED.fullmatch(alias)):
            # The keys of a sort name the partitioned table by the alias without the number.
            conditions = {
                kind: tuple(renamed(each, alias, match[1]) for each in found) for kind, found in conditions.items()
            }
            alias = match[1]
        area.conditions += [each for found in conditions.values() for each in found]
        if node["Node Type"] == "Sort" and not area.sort_keys and not area.scans:
            area.sort_keys = tuple(map(bare, node["Sort Key"]))
        if "Relation Name" in node:
            scan = _Scan(node["Schema"], node["Relation Name"], alias, conditions.get("Index Cond", ()))
            area.scans.setdefault(alias, scan)
        for child in node.get("Plans", ()):
            visit(child, name, node["Node Type"])

    visit(plan, "", "")
    return areas


def _predicates(area: _Area, scan: _Scan) -> tuple[str, ...]:
    found = (without_alias(each, scan.alias) for each in area.conditions if _aliases(each, area.scans) == {scan.alias})
    return tuple(dict.fromkeys(each for each in found if _PARTIAL.fullmatch(each)))


def _both_ways(equal: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [pair for left, right in equal for pair in ((left, right), (right, left))]


def _is_constant(text: str, space_id: int) -> bool:
    return text in (f"'{space_id}'::bigint", f"'{space_id}'::integer", str(space_id))


def _aliases(text: str, scans: Mapping[str, _Scan]) -> set[str]:
    """The aliases of scans that an expression names."""
    return names_before_a_dot(text) & scans.keys()
