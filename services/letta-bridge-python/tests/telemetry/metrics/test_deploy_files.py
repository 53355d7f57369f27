"""The dashboard, the alert rules and the documentation name metrics and labels that exist."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from letta_bridge import health_checks
from letta_bridge.settings import LettaSettings
from letta_bridge.turn import router as router_module
from local_stack.fixtures import missing_parts
from local_stack.programs import debian_program

ROOT = Path(__file__).parents[5]
DASHBOARD = ROOT / "deploy" / "grafana" / "letta-bridge.json"
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
SCRAPE = ROOT / "deploy" / "prometheus" / "prometheus.yml"
BRIDGE_POD = ROOT / "deploy" / "kubernetes" / "bridge.yaml"
RULE_TESTS = ROOT / "deploy" / "prometheus" / "alerts_test.yml"
RUNBOOKS = (ROOT / "docs" / "alerts.md", ROOT / "docs" / "alerts.zh-CN.md")
DOCS = ROOT / "docs" / "metrics.md"

pytestmark = pytest.mark.skipif(not RULES.exists(), reason="deploy/ is in the checkout, not in the package")

NAME = re.compile(r"\b(?:letta_bridge|process)_[a-z_]+\b")
SELECTOR = re.compile(r"\b([a-z_]+)\{([^}]*)\}")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
OF_THE_SCRAPE = {"job", "instance"}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}

_EXPOSED: dict[str, set[str]] = {}


@pytest.fixture
async def exposed(make_metered: Callable[..., Any]) -> dict[str, set[Any]]:
    """Sample name → its labels, of everything a bridge tells; the same for all tests, so that one scrape does."""
    if _EXPOSED:
        return _EXPOSED
    metered = make_metered()
    metered.rig.push("t1", "ada", "hi", meta={"memory_type": "temporary"})
    metered.rig.push("t2", "ada", "")
    metered.rig.push("t3", "bob", "hi")
    metered.rig.letta.down = True
    await metered.rig.work_off()
    for family in (await metered.families()).values():
        labels = {label for sample in family.samples for label in sample.labels}
        _EXPOSED.update({family.name + suffix: labels for suffix in SUFFIXES[family.type]})
    return _EXPOSED


def panel_queries() -> list[tuple[str, str]]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


def rules() -> list[tuple[str, str]]:
    text = RULES.read_text(encoding="utf-8")
    return re.findall(r"- alert: (\w+)\n +expr: (.+)\n", text)


def assert_names_exist(expression: str, exposed: dict[str, set[Any]]) -> None:
    names = NAME.findall(expression)
    assert names or re.search(r"\bup\{", expression), expression
    known = OF_THE_SCRAPE.union(*(exposed.get(name, set()) for name in names))
    for name in names:
        assert name in exposed, name
    for name, matchers in SELECTOR.findall(expression):
        if name != "up":
            assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", matchers)) <= exposed[name] | OF_THE_SCRAPE, expression
    for group in GROUPED.findall(expression):
        assert {label.strip() for label in group.split(",")} <= known, expression


def test_every_rule_is_read_here() -> None:
    assert len(rules()) == RULES.read_text(encoding="utf-8").count("alert:") > 10


@pytest.mark.parametrize(("title", "expression"), panel_queries() if DASHBOARD.exists() else [])
def test_dashboard_panels_use_existing_metrics(title: str, expression: str, exposed: dict[str, set[Any]]) -> None:
    assert_names_exist(expression, exposed)


@pytest.mark.parametrize(("alert", "expression"), rules() if RULES.exists() else [])
def test_alert_rules_use_existing_metrics(alert: str, expression: str, exposed: dict[str, set[Any]]) -> None:
    assert_names_exist(expression, exposed)


def test_check_of_metric_names_finds_unknown_ones(exposed: dict[str, set[Any]]) -> None:
    for wrong in (
        "letta_bridge_nothing > 1",
        'letta_bridge_tasks_total{user="x"}',
        "sum by (user) (letta_bridge_redis_up)",
    ):
        with pytest.raises(AssertionError):
            assert_names_exist(wrong, exposed)


def test_documentation_lists_exactly_the_exported_metrics(exposed: dict[str, set[Any]]) -> None:
    told = set(re.findall(r"^\| `(letta_bridge_[a-z_]+)`", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    exist = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed if name.startswith("letta_bridge_")}
    assert told == exist


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))


def test_reasons_that_a_rule_leaves_out_are_reasons_of_the_router() -> None:
    (expression,) = [expression for alert, expression in rules() if alert == "LettaBridgeManyFallbacks"]
    (left_out,) = re.findall(r'reason!~"([^"]*)"', expression)
    router = Path(router_module.__file__).read_text(encoding="utf-8")
    configured = set(LettaSettings().memory_type_routing)
    assert {
        reason for reason in left_out.split("|") if f'"{reason}"' not in router and reason not in configured
    } == set()


def test_each_health_check_has_a_rule() -> None:
    source = Path(health_checks.__file__).read_text(encoding="utf-8")
    checks = set(re.findall(r'\b(?:Check|_trouble_check)\("(\w+)"', source)) | {"letta", "letta-2"}
    assert checks >= {
        "redis",
        "sessions",
        "session_file",
        "consent",
        "tenant",
        "journal",
        "vectors",
        "intake",
        "resources",
        "answers",
    }
    required = set(re.findall(r'\bCheck\("(\w+)".*required=True', source))
    expressions = " ".join(expression for _, expression in rules())
    (left_out,) = re.findall(r'check_ok\{required="true",check!~"([^"]+)"', expressions)
    patterns = re.findall(r'check_ok\{check=~?"([^"]+)"', expressions)
    alarmed = required - set(left_out.split("|"))
    alarmed |= {name for name in checks for pattern in patterns if re.fullmatch(pattern, name)}
    # Of Redis letta_bridge_redis_up tells more, of answers the counts of fallbacks; a bridge that drains was told to.
    assert checks - alarmed == {"redis", "intake", "answers"}
    assert "letta_bridge_redis_up == 0" in expressions
    assert "letta_bridge_fallbacks_total" in expressions


def test_the_rule_about_memory_fires_below_the_limit_of_the_container() -> None:
    (expression,) = [expression for alert, expression in rules() if alert == "LettaBridgeMemory"]
    (limit,) = re.findall(r"limits: \{memory: (\d+)Mi\}", BRIDGE_POD.read_text(encoding="utf-8"))
    assert float(expression.rpartition("> ")[2]) < 0.8 * int(limit) * 2**20


def test_each_rule_fires_in_a_test_of_its_own_and_has_a_place_in_both_runbooks() -> None:
    names = {alert for alert, _ in rules()}
    assert set(re.findall(r'alertname="(\w+)"', RULE_TESTS.read_text(encoding="utf-8"))) == names
    for runbook in RUNBOOKS:
        assert set(re.findall(r"^### (LettaBridge\w+)", runbook.read_text(encoding="utf-8"), re.MULTILINE)) == names


@pytest.mark.process
@pytest.mark.parametrize(
    "words",
    [("check", "rules", RULES), ("check", "config", SCRAPE), ("test", "rules", RULE_TESTS)],
    ids=["rules", "scrape configuration", "tests of the rules"],
)
def test_promtool_accepts_the_shipped_rules(words: str) -> None:
    with missing_parts():
        promtool = debian_program("promtool", package="prometheus")
    checked = subprocess.run([promtool, *map(str, words)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
