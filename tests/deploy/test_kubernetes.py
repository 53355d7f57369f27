"""The Kubernetes manifests: well-formed, consistent with each other, with the compose file and with the services."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from letta_bridge.config_layout import LAYOUT
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import BridgeSettings, QueueSettings
from letta_server.environment import _OURS
from memory_service.settings import ServiceSettings
from shared_utils.config import variables

_VERSIONS = {
    "Service": "v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "ScaledObject": "keda.sh/v1alpha1",
    "TriggerAuthentication": "keda.sh/v1alpha1",
}


@pytest.fixture(scope="session")
def manifests(checkout: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(kind, name) → object; each once."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for file in sorted((checkout / "deploy/kubernetes").glob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text("utf-8")):
            key = manifest["kind"], manifest["metadata"]["name"]
            assert key not in found
            assert manifest["apiVersion"] == _VERSIONS[manifest["kind"]]
            found[key] = manifest
    return found


def _workloads(manifests: dict[tuple[str, str], dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for (kind, name), manifest in manifests.items():
        if kind in {"Deployment", "StatefulSet"}:
            yield name, manifest["spec"]


def test_selectors_find_their_pods(manifests: Any) -> None:
    labels = {}
    for name, spec in _workloads(manifests):
        labels[name] = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels[name] == {"app": name}
        if "serviceName" in spec:
            assert ("Service", spec["serviceName"]) in manifests
    for (kind, name), manifest in manifests.items():
        if kind == "Service":
            assert manifest["spec"]["selector"] == labels[name]
        if kind == "NetworkPolicy":
            assert manifest["spec"]["podSelector"]["matchLabels"] == labels[name]


def test_every_container_is_hardened_limited_and_probed(manifests: Any) -> None:
    for name, spec in _workloads(manifests):
        pod = spec["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            assert container["readinessProbe"], name
            assert re.search(r":\d+\.\d+\.\d+", container["image"]), name


def test_mounts_and_secrets_are_there(manifests: Any, compose: Callable[..., Any]) -> None:
    known = compose("docker-compose.yml")["secrets"].keys()
    for name, spec in _workloads(manifests):
        pod = spec["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
        items = {item["key"] for item in volumes.get("secrets", {}).get("secret", {}).get("items", [])}
        assert items <= known
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys() | claims, name
            for variable in container.get("env", []):
                if variable["name"].endswith("_FILE"):
                    assert variable["value"].removeprefix("/run/secrets/") in items, (name, variable)


def test_images_and_commands_are_the_compose_files(manifests: Any, compose: Callable[..., Any]) -> None:
    services = compose("docker-compose.yml")["services"]
    for name, spec in _workloads(manifests):
        (container,) = spec["template"]["spec"]["containers"]
        assert container["image"] == services[name]["image"]
        assert container.get("args") == services[name].get("command")
        grace = spec["template"]["spec"].get("terminationGracePeriodSeconds", 30)
        assert grace >= int(services[name]["stop_grace_period"].rstrip("s"))


@pytest.mark.parametrize(
    ("workload", "model"), [("letta-bridge", BridgeSettings), ("memory-python", ServiceSettings), ("letta", None)]
)
def test_every_variable_is_one_its_service_knows(workload: str, model: Any, manifests: Any) -> None:
    known = {*_OURS, "LETTA_REDIS_HOST", "LETTA_REDIS_PORT", "LETTA_SERVER_GRACE"}
    if model:
        known = {variable for leaf in variables.leaves(model) for variable in leaf.variables(LAYOUT)}
    (container,) = dict(_workloads(manifests))[workload]["template"]["spec"]["containers"]
    for variable in container["env"]:
        assert variable["name"] in known or variable["name"].removesuffix("_FILE") in known


def test_memory_python_and_bridge_share_vector_settings_in_kubernetes(manifests: Any) -> None:
    workloads = dict(_workloads(manifests))
    common = []
    for name in ("letta-bridge", "memory-python"):
        (container,) = workloads[name]["template"]["spec"]["containers"]
        variables = {variable["name"]: variable["value"] for variable in container["env"]}
        common.append({key: variables[key] for key in ("DATABASE_URL", "DB_PASSWORD_FILE", "VECTORS_ENABLED")})
    assert common[0] == common[1]


def test_only_the_bridge_reaches_letta(manifests: Any) -> None:
    askers = ["letta", "letta-bridge", "memory-python"]
    callers = {"letta": ["letta-bridge"], "postgres": askers, "letta-locks": ["letta"]}
    for target, sources in callers.items():
        (rule,) = manifests["NetworkPolicy", target]["spec"]["ingress"]
        assert rule["from"] == [{"podSelector": {"matchLabels": {"app": source}}} for source in sources]


def test_scales_on_lists_that_exist_and_never_to_zero(manifests: Any, checkout: Path) -> None:
    scaled = manifests["ScaledObject", "letta-bridge"]["spec"]
    keys = Keys(QueueSettings().requests)
    assert [trigger["metadata"]["listName"] for trigger in scaled["triggers"]] == [keys.requests, keys.ready]
    assert scaled["minReplicaCount"] >= 1
    assert "replicas" not in manifests["Deployment", "letta-bridge"]["spec"]
    assert ("Deployment", scaled["scaleTargetRef"]["name"]) in manifests
    for trigger in scaled["triggers"]:
        assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in manifests
        assert f"user {trigger['metadata']['username']} " in (checkout / "deploy/redis/users.acl").read_text("utf-8")
