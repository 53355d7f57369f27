"""The compose files: right by the published schema, hardened, and talking to the services in words they know."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from letta_bridge.config_layout import LAYOUT
from letta_bridge.settings import BridgeSettings
from letta_server.environment import _OURS
from memory_service.settings import ServiceSettings
from shared_utils.config import variables

Compose = Callable[..., dict[str, Any]]

_BASE = ("docker-compose.yml",)
_DEMO = (*_BASE, "deploy/compose.demo.yml")
_DEV = (*_DEMO, "docker-compose.dev.yml")
_JOIN = (*_BASE, "deploy/compose.join.yml")
_REDIS = (*_BASE, "deploy/compose.redis.yml")
_JOINED = {"REDIS_URL": "redis://redis:6379/0", "AIVTUBER_NETWORK": "theirs"}
_FILES = [(_BASE, {}), (_DEMO, {}), (_DEV, {}), (_JOIN, _JOINED), (_REDIS, _JOINED)]
_OWN = {
    "letta-bridge": "SHUTDOWN_GRACE_SECONDS",
    "memory-python": "MEMORY_SHUTDOWN_GRACE_SECONDS",
    "letta": "LETTA_SERVER_GRACE",
}


@pytest.mark.process
@pytest.mark.parametrize(
    "file",
    [
        "docker-compose.yml",
        "docker-compose.dev.yml",
        "deploy/compose.demo.yml",
        "deploy/compose.join.yml",
        "deploy/compose.redis.yml",
    ],
)
def test_follows_the_published_schema(file: str, checkout: Path) -> None:
    words: list[str | Path] = [
        Path(sys.executable).with_name("check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
    ]
    done = subprocess.run([*words, checkout / file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture(params=_FILES, ids=["whole", "demo", "dev", "join", "redis"])
def stack(request: pytest.FixtureRequest, compose: Compose) -> dict[str, Any]:
    files, given = request.param
    return compose(*files, **given)


def _services(stack: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, service in stack["services"].items():
        if "never" not in service.get("profiles", []):
            yield name, service


def test_every_service_is_hardened(stack: dict[str, Any]) -> None:
    for name, service in _services(stack):
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["init"] is (name != "opengauss"), name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert service["healthcheck"]["test"], name
        assert service["stop_grace_period"], name
        assert "container_name" not in service, "a second copy on the same host could not start"
        assert "privileged" not in service, name
        # openGauss's image starts as root and steps down by itself.
        if name != "opengauss":
            assert service["read_only"] is True, name
            assert service["user"] == "10001:10001", name
            assert "cap_add" not in service, name


def test_compose_pins_every_image(stack: dict[str, Any]) -> None:
    for name, service in _services(stack):
        tag = service["image"].rpartition(":")[2]
        assert "build" in service or re.search(r"\d+\.\d+\.\d+", tag), name
        assert tag != "latest"


def test_compose_passes_secrets_as_files(stack: dict[str, Any]) -> None:
    assert all(secret.keys() == {"file"} for secret in stack["secrets"].values())
    for name, service in _services(stack):
        mounted = set(service.get("secrets", []))
        assert mounted <= stack["secrets"].keys(), name
        for variable, value in service.get("environment", {}).items():
            if variable.endswith("_FILE") and value:
                assert value.removeprefix("/run/secrets/") in mounted, (name, variable)
            assert not re.search(r"(PASSWORD|KEY|SECRET|TOKEN)$", variable), (name, variable)


def test_only_the_bridge_shares_a_network_with_letta(stack: dict[str, Any]) -> None:
    others = {name for name, service in _services(stack) if "letta" in service["networks"]} - {"letta"}
    assert others == {"letta-bridge"}
    assert stack["networks"]["letta"]["internal"] is True
    assert stack["networks"]["letta-data"]["internal"] is True
    locks = {name for name, service in _services(stack) if "letta-data" in service["networks"]}
    assert locks == {"letta", "letta-locks"}
    assert stack["networks"]["data"]["internal"] is True
    assert all(stack["services"][name]["networks"] == ["data"] for name in ("postgres", "opengauss"))
    assert "chat" not in stack["services"]["letta"]["networks"]


def test_only_required_ports_are_published_on_loopback(stack: dict[str, Any]) -> None:
    published = {name for name, service in _services(stack) if "ports" in service}
    assert published <= {"redis", "letta-bridge", "scripted-model"}
    for _, service in _services(stack):
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_dependencies_wait_for_health(stack: dict[str, Any]) -> None:
    for name, service in _services(stack):
        for other, how in service.get("depends_on", {}).items():
            assert other in stack["services"], name
            assert how["condition"] == ("service_started" if other == "letta" else "service_healthy")
            optional = "profiles" in stack["services"][other] or name == "letta-bridge" or other == "redis"
            assert how.get("required", True) is not optional or other == "letta", (name, other)


def test_a_stop_leaves_time_for_the_grace(stack: dict[str, Any]) -> None:
    for name, variable in _OWN.items():
        if name in dict(_services(stack)):
            service = stack["services"][name]
            margin = 5 if name == "letta" else 0
            assert int(service["stop_grace_period"].rstrip("s")) >= int(service["environment"][variable]) + margin + 5


def _known(name: str) -> set[str]:
    if name == "letta":
        passed_on = {"OPENAI_BASE_URL", "LETTA_REDIS_HOST", "LETTA_REDIS_PORT", "LETTA_SERVER_GRACE"}
        return {*_OURS, *passed_on, "LOG_FORMAT", "LOG_LEVEL", "PYTHONPATH"}
    model: type[BaseModel] = BridgeSettings if name == "letta-bridge" else ServiceSettings
    own = {variable for leaf in variables.leaves(model) for variable in leaf.variables(LAYOUT)}
    own |= {variable for names in LAYOUT.former.values() for variable in names}
    return own | {f"{variable}_FILE" for variable in own} | {"PYTHONPATH"}


def test_every_variable_is_one_its_service_knows(stack: dict[str, Any]) -> None:
    for name in _OWN:
        if name in dict(_services(stack)):
            assert stack["services"][name]["environment"].keys() - _known(name) == set(), name


def test_operators_variables_reach_the_services(compose: Compose) -> None:
    given = {
        "LETTA_MODEL": "openai/gpt-5",
        "LETTA_TIMEOUT_SECONDS": "30",
        "LETTA_RETRY_ATTEMPTS": "1",
        "LETTA_API_URL": "http://a:1",
    }
    stack = compose(*_BASE, LETTA_MEMORY_BACKEND="opengauss", LETTA_SERVER_FULL_API="true", **given)["services"]
    bridge = stack["letta-bridge"]["environment"]
    assert {name: bridge[name] for name in given} == given
    bridge = compose(*_BASE, LETTA_TIMEOUT="31")["services"]["letta-bridge"]["environment"]
    assert (bridge["LETTA_TIMEOUT"], bridge["LETTA_TIMEOUT_SECONDS"]) == ("31", "")  # a file .env of the last release
    assert stack["letta"]["environment"]["LETTA_PG_HOST"] == "opengauss"
    assert stack["letta"]["environment"]["LETTA_SERVER_FULL_API"] == "true"
    assert stack["opengauss"]["profiles"] == ["opengauss"]
    assert stack["postgres"]["profiles"] == ["postgres"]


def test_the_settings_files_variables_are_the_compose_files(checkout: Path) -> None:
    example = set(re.findall(r"^#?([A-Z_]+)=", (checkout / ".env.example").read_text("utf-8"), re.MULTILINE))
    files = [*_DEV, _JOIN[-1], _REDIS[-1]]
    used = {name for file in files for name in re.findall(r"\$\{(\w+)", (checkout / file).read_text("utf-8"))}
    assert example - {"COMPOSE_PROFILES", "COMPOSE_FILE"} <= used
    assert used - example <= {"LETTA_API_URL", "LETTA_TIMEOUT"}


def test_mirrors_and_authorities_reach_every_build_and_image(compose: Compose) -> None:
    given = {"IMAGE_REGISTRY": "mirror.example.com:5000", "PYTHON_INDEX": "https://packages.example.com/simple"}
    without, stack = compose(*_DEV), compose(*_DEV, BUILD_CA_FILE="./ca.pem", **given)
    for name, service in stack["services"].items():
        if "build" in service:
            assert given.items() <= service["build"]["args"].items(), name
            assert service["build"]["secrets"] == ["build_ca"], name
            assert not any(without["services"][name]["build"]["args"][argument] for argument in given), name
        else:
            assert service["image"] == f"{given['IMAGE_REGISTRY']}/{without['services'][name]['image']}", name
    assert without["secrets"]["build_ca"] == {"file": "/dev/null"}
    assert stack["secrets"]["build_ca"] == {"file": "./ca.pem"}


def test_data_lies_below_data(stack: dict[str, Any]) -> None:
    mounts = {
        mount.split(":")[0]
        for _, service in _services(stack)
        for mount in service.get("volumes", [])
        if not mount.endswith(":ro") or "data/" in mount
    }
    expected = {"./data/letta/pgdata", "./data/letta/config", "./data/memory", "./data/uploads"}
    assert expected <= mounts
    assert all(mount.startswith("./data/") for mount in mounts)


def test_joining_starts_letta_and_the_bridge_alone(compose: Compose) -> None:
    stack = compose(*_JOIN, **_JOINED)
    assert {name for name, _ in _services(stack)} == {"letta", "letta-bridge", "letta-locks", "postgres", "opengauss"}
    assert stack["networks"]["chat"] == {"external": True, "name": "theirs"}
    bridge = stack["services"]["letta-bridge"]
    assert bridge["environment"]["REDIS_URL"] == "redis://redis:6379/0"
    assert not bridge["environment"]["REDIS_USERNAME"]
    assert not bridge["environment"]["REDIS_PASSWORD_FILE"]
    assert bridge["depends_on"]["redis"]["required"] is False
    with pytest.raises(LookupError, match="REDIS_URL"):
        compose(*_JOIN, AIVTUBER_NETWORK="theirs")


def test_existing_redis_replaces_that_of_the_stack(compose: Compose) -> None:
    whole, stack = compose(*_BASE), compose(*_REDIS, **_JOINED)
    assert {name for name, _ in _services(whole)} - {name for name, _ in _services(stack)} == {"redis"}
    assert stack["networks"]["chat"] == {"external": True, "name": "theirs"}
    for name in ("letta-bridge", "memory-python"):
        service = stack["services"][name]
        assert service["environment"]["REDIS_URL"] == "redis://redis:6379/0"
        assert not service["environment"]["REDIS_USERNAME"]
        assert not service["environment"]["REDIS_PASSWORD_FILE"]
        assert service["depends_on"]["redis"]["required"] is False
        assert "redis_bridge_password" in service["secrets"]


def test_development_file_watches_its_mounts(compose: Compose) -> None:
    stack = compose(*_DEV)
    for name in ("letta-bridge", "memory-python", "letta", "scripted-model"):
        service = stack["services"][name]
        mounted = dict(mount.split(":")[:2] for mount in service["volumes"] if mount.endswith(":ro"))
        watched = {rule["path"] for rule in service["develop"]["watch"]}
        assert watched == mounted.keys()
        assert {rule["action"] for rule in service["develop"]["watch"]} == {"restart"}, "SIGTERM drains"
        assert set(service["environment"]["PYTHONPATH"].split(":")) <= set(mounted.values())


def test_the_scripted_model_takes_the_place_of_a_paid_one(compose: Compose) -> None:
    whole, stack = compose(*_BASE)["services"], compose(*_DEMO)["services"]
    assert stack.keys() - whole.keys() == {"scripted-model"}
    for service in stack.values():
        for variable in ("OPENAI_BASE_URL", "EMBEDDING_BASE_URL"):
            assert service.get("environment", {}).get(variable, "http://scripted-model:8000/v1") == (
                "http://scripted-model:8000/v1"
            )


def test_a_stack_that_was_not_prepared_says_so(compose: Compose) -> None:
    with pytest.raises(LookupError, match=r"run \./deploy/prepare first"):
        compose(*_BASE, AIVTUBER_UID="")


def test_networks_are_the_projects_own_unless_one_is_named(compose: Compose) -> None:
    assert compose(*_BASE)["networks"]["chat"]["name"] == "aivtuber"
    assert compose(*_BASE, COMPOSE_PROJECT_NAME="another")["networks"]["chat"]["name"] == "another"
    assert compose(*_BASE, AIVTUBER_NETWORK="theirs")["networks"]["chat"]["name"] == "theirs"
