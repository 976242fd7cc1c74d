"""The expressions of the dashboard and of the alerts, and what they name: metrics and labels."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
_NAME = re.compile(r"\b(?:contact_exports|process)_\w+|\bup\b")
_SELECTOR = re.compile(r"(\w+)\{([^}]*)\}")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\bby\s*\(([^)]*)\)")


@dataclass(frozen=True)
class Expression:
    """An expression, and where it stands."""

    place: str
    text: str

    @property
    def metrics(self) -> set[str]:
        """The metrics that it names."""
        return set(_NAME.findall(re.sub(r'"[^"]*"', "", self.text)))

    @property
    def labels(self) -> set[str]:
        """The labels that it names."""
        selected = {label for _, matchers in _SELECTOR.findall(self.text) for label in _MATCHER.findall(matchers)}
        grouped = {label.strip() for labels in _GROUPING.findall(self.text) for label in labels.split(",")}
        return selected | grouped


def alerts() -> list[dict[str, Any]]:
    """The rules of the alerts."""
    content = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    content: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    return content


def expressions() -> Iterator[Expression]:
    """Every expression, with the variables of the dashboard replaced."""
    for rule in alerts():
        yield Expression(rule["alert"], rule["expr"])
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*")
            yield Expression(panel["title"], text)
