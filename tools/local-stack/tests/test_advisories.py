from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from csaf_lib.verification import Verifier
from packaging.version import Version

from local_stack.advisories import csaf, page
from local_stack.advisories.__main__ import main
from local_stack.advisories.audit import Finding, compare
from local_stack.advisories.entries import Advisories, UnfixedEntry, locked, read

CHECKOUT = Path(__file__).parents[3]
UNFIXED = UnfixedEntry.model_validate(
    {
        "package": "mcp",
        "version": "99",
        "ids": ["GHSA-aaaa-bbbb-cccc"],
        "source": "https://example.com/advisory",
        "reason": "Letta does not run with it.",
        "reason_zh": "Letta 不能在其上运行。",
        "reach": "No client of MCP is started.",
        "reach_zh": "不会启动 MCP 客户端。",
        "justification": "vulnerable_code_not_in_execute_path",
    }
)
SCANNER = """
import json, pathlib, re, sys
file = pathlib.Path(sys.argv[-1])
given = json.loads(pathlib.Path({answers!r}).read_text("utf-8"))
pins = re.findall(r"^([a-z0-9.-]+)==([^\\s;]+)", file.read_text("utf-8"), re.MULTILINE)
found = [
    {{"name": name, "version": version, "vulns": given.get(name + " " + version, [])}}
    for name, version in pins
    if name not in given["not looked up"]
]
print(json.dumps({{"dependencies": found, "fixes": []}}))
sys.exit(1)
"""
CONTROL = {"id": "CVE-2025-0001", "aliases": [], "fix_versions": ["2"]}


@pytest.fixture
def advisories() -> Advisories:
    return read(CHECKOUT).model_copy(update={"unfixed": (UNFIXED,)})


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two locks and a list, as the current directory."""
    service = tmp_path / "services" / "letta-server"
    service.mkdir(parents=True)
    listed = (CHECKOUT / "services/letta-server/advisories.toml").read_text("utf-8")
    control = read(CHECKOUT).control
    listed = listed.replace(f'id = "{control.id}"', 'id = "CVE-2025-0001"', 1)
    (service / "advisories.toml").write_text(listed, "utf-8")
    (service / "requirements.lock").write_text("one==1.0 \\\ntwo==2.0 \\\n", "utf-8")
    (tmp_path / "requirements.lock").write_text(
        "one==1.0 \\\nelsewhere==3.0 ; sys_platform == 'win32' \\\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scanner(folder: Path, answers: dict[str, Any], *, control: bool = True, not_looked_up: tuple[str, ...] = ()) -> Any:
    """The command of a stand-in for pip-audit. ``answers``: "package version" → advisories."""
    listed = read(CHECKOUT).control
    given: dict[str, Any] = answers | {"not looked up": ["elsewhere", *not_looked_up]}
    if control:
        given[f"{listed.package} {listed.version}"] = [CONTROL]
    (folder / "answers.json").write_text(json.dumps(given), "utf-8")
    program = folder / "scanner.py"
    program.write_text(SCANNER.format(answers=str(folder / "answers.json")), "utf-8")
    return [sys.executable, str(program)]


def finding(name: str, *aliases: str) -> Finding:
    return Finding("mcp", "1.0", name, frozenset((name, *aliases)), ("2",))


def test_unlisted_advisory_is_a_problem_and_a_listed_one_is_not(advisories: Advisories) -> None:
    known = finding("PYSEC-2026-1", "GHSA-aaaa-bbbb-cccc")
    [problem] = compare([known, finding("CVE-2026-1"), finding("CVE-2026-1")], advisories)
    assert problem.startswith("mcp 1.0 has CVE-2026-1; fixed in 2: raise the package")


def test_listed_advisory_that_is_not_reported_is_a_problem(advisories: Advisories) -> None:
    [problem] = compare([], advisories)
    assert "GHSA-aaaa-bbbb-cccc of mcp is listed as unfixed and not reported" in problem


@pytest.mark.process
def test_audit_passes_if_nothing_is_found(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(scanner(checkout, {})) == 0
    assert "no advisory for the locks" in capsys.readouterr().out


@pytest.mark.process
def test_audit_fails_on_an_advisory_that_is_not_listed(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"id": "PYSEC-2099-1", "aliases": ["CVE-2099-1"], "fix_versions": []}
    assert main(scanner(checkout, {"two 2.0": [found]})) == 1
    assert "two 2.0 has CVE-2099-1, PYSEC-2099-1; no fixed release is known" in capsys.readouterr().err


@pytest.mark.process
def test_audit_without_data_fails(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(scanner(checkout, {}, control=False)) == 1
    assert "so it has no data" in capsys.readouterr().err


@pytest.mark.process
def test_audit_that_leaves_out_a_package_fails(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(scanner(checkout, {}, not_looked_up=("two",))) == 1
    assert "did not look up these packages of requirements.lock: two." in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.parametrize("program", ["print('not JSON')", "print('[]')", "raise SystemExit('no network')"])
def test_scanner_without_an_answer_fails(checkout: Path, capsys: pytest.CaptureFixture[str], program: str) -> None:
    assert main([sys.executable, "-c", program]) == 1
    assert "gave no answer for control.txt" in capsys.readouterr().err


def test_missing_scanner_fails(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(checkout / "missing")]) == 1
    assert "missing" in capsys.readouterr().err


def test_statement_about_a_package_follows_the_standard(advisories: Advisories) -> None:
    versions = {"letta": [Version("0.16.8")], "mcp": [Version("1.30.0"), Version("1.12.4")]}
    made = csaf.document(advisories, versions)
    assert Verifier(made).run_all().failures == []
    stated = made["vulnerabilities"][-1]
    assert stated["ids"] == [{"system_name": "GHSA", "text": "GHSA-aaaa-bbbb-cccc"}]
    assert "cve" not in stated
    assert stated["product_status"] == {"known_not_affected": ["letta-server:mcp", "letta-server-full-api:mcp"]}


@pytest.mark.parametrize(
    ("chinese", "reach"), [(False, "No client of MCP is started."), (True, "不会启动 MCP 客户端。")]
)
def test_page_shows_packages_that_cannot_be_raised(advisories: Advisories, *, chinese: bool, reach: str) -> None:
    marks = "\n".join(f"<!-- {name}: ./run generate -->\n<!-- end of {name} -->" for name in ("letta", "packages"))
    made = page.with_entries(marks, advisories, chinese=chinese)
    assert f"| {reach} |" in made
    assert made == page.with_entries(made, advisories, chinese=chinese)


def test_page_without_marks_is_refused(advisories: Advisories) -> None:
    with pytest.raises(ValueError, match="no marks of letta"):
        page.with_entries("# Page", advisories)


def test_locked_versions_include_those_of_other_environments(checkout: Path) -> None:
    assert locked(checkout, "requirements.lock") == {"one": [Version("1.0")], "elsewhere": [Version("3.0")]}
