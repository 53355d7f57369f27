"""Makes the VEX statement: a CSAF 2.0 document of the profile "VEX".

CSAF and not OpenVEX, because the answer depends on a setting: a CSAF product tree names letta-server with default
settings and with its whole API as two products with a status each, where OpenVEX accepts a mitigation as a reason only
if nobody can switch it off.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from packaging.version import Version

from local_stack.advisories.entries import Advisories, Justification, LettaEntry, Status, UnfixedEntry

DOCUMENT_ID: Final = "letta-memory-bridge-vex"
"""The standard wants the file to be named like this, with `.json`."""
_PUBLISHER: Final = {
    "category": "vendor",
    "name": "The Letta memory bridge authors",
    "namespace": "urn:letta-memory-bridge",
}
_DEFAULT: Final = "letta-server"
_FULL: Final = "letta-server-full-api"
_PRODUCTS: Final = {
    _DEFAULT: "letta-server with default settings",
    _FULL: "letta-server with LETTA_SERVER_FULL_API=true",
}


def render(advisories: Advisories, locked: Mapping[str, Sequence[Version]]) -> str:
    """The document as the content of its file.

    Args:
        advisories: the list.
        locked: package → versions of letta-server's lock.
    """
    return json.dumps(document(advisories, locked), indent=2, ensure_ascii=False) + "\n"


def document(advisories: Advisories, locked: Mapping[str, Sequence[Version]]) -> dict[str, Any]:
    """The document."""
    packages = {"letta": locked["letta"], **{one.package: locked[one.package] for one in advisories.unfixed}}
    return {
        "document": _head(advisories),
        "product_tree": _products(packages),
        "vulnerabilities": [
            *(_of_letta(entry) for entry in advisories.letta),
            *(_of_package(entry, name) for entry in advisories.unfixed for name in entry.ids),
        ],
    }


def _head(advisories: Advisories) -> dict[str, Any]:
    history = [
        {"number": str(one.number), "date": _time(one.date), "summary": one.summary} for one in advisories.revisions
    ]
    return {
        "category": "csaf_vex",
        "csaf_version": "2.0",
        "distribution": {"tlp": {"label": "WHITE"}},
        "lang": "en",
        "notes": [
            {
                "category": "general",
                "title": "Scope",
                "text": "Published vulnerabilities of Letta 0.16.8 as letta-server runs it, and of packages that "
                "letta-server cannot raise past an advisory. What was published was looked up on "
                f"{advisories.looked_up.isoformat()}. Each statement names the tests that show it.",
            }
        ],
        "publisher": _PUBLISHER,
        "title": "Vulnerabilities of Letta in the Letta memory bridge",
        "tracking": {
            "id": DOCUMENT_ID,
            "status": "final",
            "version": history[-1]["number"],
            "initial_release_date": history[0]["date"],
            "current_release_date": history[-1]["date"],
            "revision_history": history,
        },
    }


def _products(packages: Mapping[str, Sequence[Version]]) -> dict[str, Any]:
    """letta-server in both settings, and each package as a component of both."""
    branches = [
        {"category": "product_name", "name": text, "product": {"name": text, "product_id": product}}
        for product, text in _PRODUCTS.items()
    ]
    components = [
        {
            "category": "product_version",
            "name": str(max(versions)),
            "product": {
                "name": f"{name} {max(versions)}",
                "product_id": name,
                "product_identification_helper": {"purl": f"pkg:pypi/{name}@{max(versions)}"},
            },
        }
        for name, versions in packages.items()
    ]
    relationships = [
        {
            "category": "default_component_of",
            "full_product_name": {"name": f"{name} in {text}", "product_id": _in(product, name)},
            "product_reference": name,
            "relates_to_product_reference": product,
        }
        for name in packages
        for product, text in _PRODUCTS.items()
    ]
    own = {"category": "vendor", "name": _PUBLISHER["name"], "branches": branches}
    others = {"category": "vendor", "name": "Packages of letta-server's lock", "branches": components}
    return {"branches": [own, others], "relationships": relationships}


def _of_letta(entry: LettaEntry) -> dict[str, Any]:
    default, full = (_in(product, "letta") for product in _PRODUCTS)
    affected = entry.full_api_status is Status.AFFECTED
    tests = "\n".join((*entry.tests, *entry.full_api_tests))
    made = _vulnerability(entry.id, entry.aliases, entry.sources) | {
        "title": entry.title,
        "notes": [
            {"category": "description", "title": "Record", "text": f"{entry.title}. Versions named: {entry.record}."},
            {"category": "details", "title": "Tests", "text": tests},
        ],
        "product_status": {"known_not_affected": [default]}
        | ({"known_affected": [full]} if affected else {"known_not_affected": [default, full]}),
        "flags": _flags(entry.justification, [default] if affected else [default, full]),
        "threats": [{"category": "impact", "details": entry.why, "product_ids": [default]}],
    }
    if affected:
        made["remediations"] = [{"category": "mitigation", "details": entry.full_api, "product_ids": [full]}]
    else:
        made["threats"].append({"category": "impact", "details": entry.full_api, "product_ids": [full]})
    return made


def _of_package(entry: UnfixedEntry, name: str) -> dict[str, Any]:
    products = [_in(product, entry.package) for product in _PRODUCTS]
    return _vulnerability(name, (), (entry.source,)) | {
        "title": f"{name} in {entry.package}",
        "notes": [{"category": "details", "title": "Why the package stays", "text": entry.reason}],
        "product_status": {"known_not_affected": products},
        "flags": _flags(entry.justification, products),
        "threats": [{"category": "impact", "details": entry.reach, "product_ids": products}],
    }


def _vulnerability(name: str, aliases: Sequence[str], sources: Sequence[str]) -> dict[str, Any]:
    ids = [one for one in (name, *aliases) if not one.startswith("CVE-")]
    return {
        **({"cve": name} if name.startswith("CVE-") else {}),
        **({"ids": [{"system_name": one.partition("-")[0], "text": one} for one in ids]} if ids else {}),
        "references": [{"category": "external", "summary": f"Read for {name}", "url": source} for source in sources],
    }


def _flags(justification: Justification, products: Sequence[str]) -> list[dict[str, Any]]:
    return [{"label": justification.value, "product_ids": list(products)}]


def _in(product: str, package: str) -> str:
    return f"{product}:{package}"


def _time(date: dt.date) -> str:
    return f"{date.isoformat()}T00:00:00Z"
