"""The dashboard, the alert rules and the documentation name metrics and labels that exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
DASHBOARD = ROOT / "deploy" / "grafana" / "letta-bridge.json"
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
SCRAPE = ROOT / "deploy" / "prometheus" / "prometheus.yml"
DOCS = ROOT / "docs" / "metrics.md"

pytestmark = pytest.mark.skipif(not RULES.exists(), reason="deploy/ is in the checkout, not in the package")

NAME = re.compile(r"\b(?:letta_bridge|process)_[a-z_]+\b")
SELECTOR = re.compile(r"\b([a-z_]+)\{([^}]*)\}")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
OF_THE_SCRAPE = {"job", "instance"}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}


@pytest.fixture
async def exposed(metered):
    """Sample name → its labels, of everything a bridge tells."""
    metered.rig.push("t1", "ada", "hi", meta={"memory_type": "temporary"})
    metered.rig.push("t2", "ada", "")
    metered.rig.push("t3", "bob", "hi")
    metered.rig.letta.down = True
    await metered.rig.work_off()
    samples = {}
    for family in (await metered.families()).values():
        labels = {label for sample in family.samples for label in sample.labels}
        samples |= {family.name + suffix: labels for suffix in SUFFIXES[family.type]}
    return samples


def panel_queries():
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


def rules():
    text = RULES.read_text(encoding="utf-8")
    return re.findall(r"- alert: (\w+)\n +expr: (.+)\n", text)


def assert_names_exist(expression, exposed):
    names = NAME.findall(expression)
    assert names or expression.startswith(("up", "sum(up")), expression
    known = OF_THE_SCRAPE.union(*(exposed.get(name, set()) for name in names))
    for name in names:
        assert name in exposed, name
    for name, matchers in SELECTOR.findall(expression):
        if name != "up":
            assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", matchers)) <= exposed[name] | OF_THE_SCRAPE, expression
    for group in GROUPED.findall(expression):
        assert {label.strip() for label in group.split(",")} <= known, expression


def test_every_rule_is_read_here():
    assert len(rules()) == RULES.read_text(encoding="utf-8").count("alert:") > 10


@pytest.mark.parametrize(("title", "expression"), panel_queries() if DASHBOARD.exists() else [])
def test_a_panel_names_what_exists(title, expression, exposed):
    assert_names_exist(expression, exposed)


@pytest.mark.parametrize(("alert", "expression"), rules() if RULES.exists() else [])
def test_a_rule_names_what_exists(alert, expression, exposed):
    assert_names_exist(expression, exposed)


def test_the_check_finds_what_does_not_exist(exposed):
    for wrong in (
        "letta_bridge_nothing > 1",
        'letta_bridge_tasks_total{user="x"}',
        "sum by (user) (letta_bridge_redis_up)",
    ):
        with pytest.raises(AssertionError):
            assert_names_exist(wrong, exposed)


def test_the_documentation_tells_every_metric_and_no_other(exposed):
    told = set(re.findall(r"^\| `(letta_bridge_[a-z_]+)`", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    exist = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed if name.startswith("letta_bridge_")}
    assert told == exist


def test_panels_do_not_overlap():
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is missing; no package index has it, the Debian package is named prometheus",
)
@pytest.mark.parametrize(("kind", "file"), [("rules", RULES), ("config", SCRAPE)])
def test_promtool_accepts(kind, file):
    checked = subprocess.run(
        ["promtool", "check", kind, str(file)], capture_output=True, text=True, check=False, env=os.environ
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
