"""The dashboard and the alerts: their form, their runbooks, and their tests with promtool."""

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import docs
from tests.support.promql import MONITORING, alerts, dashboard, expressions


def promtool(*arguments: str | Path) -> str:
    """The output of promtool, which must succeed."""
    ended = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_every_alert_has_a_summary_a_severity_and_a_section_in_its_runbook() -> None:
    sections = re.findall(r"^### (\w+)$", docs.text_of("docs/operating.md"), re.MULTILINE)
    assert [rule["alert"] for rule in alerts()] == [name for name in sections if name.startswith("ContactExports")]
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/operating.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_every_alert_is_seen_to_fire_by_a_test() -> None:
    tests: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text(encoding="utf-8"))["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in alerts()}


def test_the_panels_of_the_dashboard_have_own_ids_and_places_that_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert max(Counter(panel["id"] for panel in panels).values()) == 1
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.debian
def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", MONITORING / "alerts.yaml")
    promtool("test", "rules", MONITORING / "alerts_test.yaml")


@pytest.mark.debian
def test_prometheus_accepts_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"a:{number}", "expr": each.text} for number, each in enumerate(expressions())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yaml")


@pytest.mark.debian
def test_prometheus_accepts_the_scrape_configuration_in_the_head_of_the_alerts(tmp_path: Path) -> None:
    lines = [
        line for line in (MONITORING / "alerts.yaml").read_text(encoding="utf-8").splitlines() if line.startswith("#  ")
    ]
    configuration = yaml.safe_load("\n".join(line.removeprefix("#") for line in lines))
    configuration["rule_files"] = [str(MONITORING / "alerts.yaml")]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    promtool("check", "config", tmp_path / "prometheus.yaml")
