"""The allowlist against every route of the real Letta: in its router, and over HTTP on a running server."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from letta_server.allowlist import OPERATIONS, allowed

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

PASSWORD: Final = "open-sesame-4711"
DOCUMENTED: Final = 249
DISGUISES: Final = (
    "/v1/tools/run/",
    "//v1/tools/run",
    "/v1/tools//run",
    "/v1/tools%2Frun",
    "/v1/%74ools/run",
    "/v1/agents/..%2Ftools%2Frun",
    "/v1/agents/../tools/run",
    "/v1/agents/%2E%2E/tools/run",
)
"""Spellings that some parser between a client and a router takes for /v1/tools/run."""
PROBES: Final = {"/v1/health/", "/v1/ready/", "/latest/health/", "/latest/ready/"}
IDS: Final = {"conversation_id": "conv"}
ROUTES: Final = """
import json, sys
sys.argv = [sys.argv[0], "--no-generation"]
from letta.server.rest_api.app import app
documented = [
    [method.upper(), path] for path, methods in app.openapi()["paths"].items() for method in methods
]
def flat(routes):
    for route in routes:
        if hasattr(route, "effective_candidates"):  # an included router, which FastAPI does not flatten
            yield from flat(route.effective_candidates())
        else:
            yield route
routes = [[method, route.path] for route in flat(app.routes) for method in getattr(route, "methods", None) or ["GET"]]
print("ROUTES" + json.dumps({"documented": documented, "routes": routes}))
"""


@dataclass(frozen=True)
class Routes:
    documented: frozenset[tuple[str, str]]
    """Operations of Letta's OpenAPI document."""
    every: frozenset[tuple[str, str]]
    """These, and the routes that are not in the document."""


@pytest.fixture(scope="module")
def routes(run_with_letta: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Routes:
    """What Letta's application routes, by method and path template."""
    database = "postgresql://nobody@127.0.0.1:1/none?sslmode=disable"  # never connected to
    ran = run_with_letta(ROUTES, tmp_path_factory.mktemp("routes"), LETTA_PG_URI=database)
    found = re.search(r"^ROUTES(.*)$", ran.stdout, re.MULTILINE)
    assert found is not None, ran.stderr
    listed = {name: frozenset(map(tuple, operations)) for name, operations in json.loads(found[1]).items()}
    return Routes(listed["documented"], listed["documented"] | listed["routes"])


@pytest.fixture
def server(
    letta_server: Any, postgres: Any, database: str, model: Any, ready: Any, tmp_path: Path
) -> Iterator[httpx.Client]:
    """A client, without a password, of a Letta started with the default settings and a password."""
    settings = postgres.variables(
        database, LETTA_SERVER_PASSWORD=PASSWORD, OPENAI_API_KEY="sk-anything", OPENAI_BASE_URL=model.url
    )
    address = ready(letta_server.start("run", "--port", "0", settings=settings))
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        yield client


def concrete(path: str, substitute: str | None = None) -> str:
    """The path of a request for this template; ids are well-formed and of nothing, or ``substitute``."""

    def value(variable: re.Match[str]) -> str:
        name = variable[1].partition(":")[0]
        return substitute or f"{IDS.get(name, name.removesuffix('_id'))}-{uuid.uuid4()}"

    return re.sub(r"\{([^}]+)\}", value, path)


def is_allowed(method: str, path: str) -> bool:
    return allowed({"type": "http", "method": method, "path": path, "headers": [], "root_path": ""})


def unlisted(operations: frozenset[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(operations - set(OPERATIONS))


def test_every_listed_operation_is_in_lettas_document(routes: Routes) -> None:
    assert len(routes.documented) == DOCUMENTED
    spelled = {(method, path.replace("/default/", "/{conversation_id}/")) for method, path in OPERATIONS}
    assert spelled <= routes.documented
    assert all(is_allowed(method, concrete(path)) for method, path in OPERATIONS)


@pytest.mark.parametrize("substitute", [None, "count", "import", "..", "x%2Fy", "a/b", "-", " "])
def test_no_other_route_passes_whatever_its_variable_parts_are(routes: Routes, substitute: str | None) -> None:
    assert len(routes.every) > 2 * DOCUMENTED - 10  # each is served below /latest, too
    passing = [(m, path) for m, path in unlisted(routes.every) if is_allowed(m, concrete(path, substitute))]
    assert passing == []


def test_a_running_server_serves_the_list_and_refuses_the_rest(routes: Routes, server: httpx.Client) -> None:
    headers = {"Authorization": f"Bearer {PASSWORD}"}
    for method, path in unlisted(routes.every):
        refused = server.request(method, concrete(path), headers=headers)
        assert refused.status_code == 403, (method, path)
        assert method == "HEAD" or "LETTA_SERVER_FULL_API" in refused.json()["detail"]
    for method, path in OPERATIONS:
        reached = server.request(method, concrete(path), headers=headers)
        # Letta finds nothing under the ids, or misses a body; its router says "Not Found" and "Method Not Allowed".
        assert reached.status_code not in {401, 403, 405}, (method, path)
        assert reached.json() != {"detail": "Not Found"}, (method, path)
    for method, path in sorted(routes.every | set(OPERATIONS)):
        unauthenticated = server.request(method, concrete(path))
        if path in PROBES:
            assert unauthenticated.status_code == (200 if (method, path) in OPERATIONS else 403), (method, path)
        else:
            assert unauthenticated.status_code == 401, (method, path)
    for path in DISGUISES:
        # The target goes out as it is, where httpx would resolve dot segments.
        options: dict[str, Any] = {"extensions": {"target": path.encode()}}
        overriding = headers | {"X-HTTP-Method-Override": "GET"}
        for method in ("POST", "GET", "HEAD", "OPTIONS"):
            assert server.request(method, "/", headers=overriding, **options).status_code == 403, (method, path)
