"""Writes every file that is made from the code: `./run generate`. A test checks that all of them are current.

What is measured stays as it is: `./run bench --docs` and `./run chaos --docs` replace results. How bench/results.json
is shown is code, so the page and its charts are made here as well. Locks come from a package index, by `./run lock`.

The files are kept in git although they could be made at any time: operators read them without a checkout, and a review
sees which setting, default or statement a change touches.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bridge_bench import report, results
from bridge_bench.figures import FIGURES
from letta_bridge import config_layout
from letta_bridge.former_codes import FORMER_CODES
from letta_bridge.settings import BridgeSettings
from local_stack import settings_reference
from local_stack.advisories import csaf, entries, page
from memory_service.config_layout import LAYOUT
from memory_service.settings import ServiceSettings
from shared_utils.persistence import catalogue

CHECKOUT: Final = Path(__file__).resolve().parents[1]
_SERVICES: Final = ((BridgeSettings, config_layout.LAYOUT), (ServiceSettings, LAYOUT))


def generated() -> Mapping[str, str]:
    """Path below the checkout → what the file has to hold."""
    return {
        "config.json": _config(),
        "docs/configuration.md": settings_reference.render(_SERVICES),
        "docs/upgrading.md": _upgrading(),
        "docs/sql.md": catalogue.render(),
        **dict(_advisories()),
        **dict(_performance()),
    }


def stale(files: Mapping[str, str]) -> list[str]:
    """Those that hold something else, or are missing."""
    return [name for name, content in files.items() if not _holds(CHECKOUT / name, content)]


def _holds(path: Path, content: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == content


def _config() -> str:
    """Every default, in the order that the file has already; what is new comes last."""
    written = json.loads((CHECKOUT / "config.json").read_text(encoding="utf-8"))
    ordered = _in_order_of(written, settings_reference.defaults(_SERVICES))
    return json.dumps(ordered, indent=2, ensure_ascii=False) + "\n"


def _upgrading() -> str:
    """The page as it is, with the present tables of former names."""
    written = (CHECKOUT / "docs" / "upgrading.md").read_text(encoding="utf-8")
    return settings_reference.with_former_names(written, _SERVICES, FORMER_CODES)


def _advisories() -> Iterator[tuple[str, str]]:
    """The VEX statement, and the page of Letta's security with the present entries."""
    advisories = entries.read(CHECKOUT)
    locked = entries.locked(CHECKOUT, entries.LETTAS_LOCK)
    yield f"docs/{csaf.DOCUMENT_ID}.json", csaf.render(advisories, locked)
    for name, chinese in (("docs/letta-security.md", False), ("docs/letta-security.zh-CN.md", True)):
        written = (CHECKOUT / name).read_text(encoding="utf-8")
        yield name, page.with_entries(written, advisories, chinese=chinese)


def _in_order_of(written: Any, values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    before = written if isinstance(written, dict) else {}
    names = [*(name for name in before if name in values), *(name for name in values if name not in before)]
    return {name: _in_order_of(before.get(name), values[name]) for name in names}


def _performance() -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        docs = Path(folder)
        measured = results.read(CHECKOUT / "bench" / "results.json")
        report.write_page(docs, [module.FIGURE for module in FIGURES.values()], measured)
        for path in sorted(docs.rglob("*.*")):
            yield f"docs/{path.relative_to(docs)}", path.read_text(encoding="utf-8")


def main() -> None:
    """Write what is not current, and say so."""
    files = generated()
    for name in stale(files):
        (CHECKOUT / name).write_text(files[name], encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
