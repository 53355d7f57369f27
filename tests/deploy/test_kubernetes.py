"""The Kubernetes manifests: well-formed, consistent with each other, with the compose file and with the services."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from letta_bridge.config_layout import LAYOUT
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import BridgeSettings, QueueSettings
from letta_server.environment import _OURS
from memory_service.settings import ServiceSettings
from shared_utils.config import variables

_VERSIONS = {
    "ConfigMap": "v1",
    "Service": "v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "ScaledObject": "keda.sh/v1alpha1",
    "TriggerAuthentication": "keda.sh/v1alpha1",
}


_SUPPORTED = range(25, 38)


@pytest.mark.parametrize("minor", _SUPPORTED)
def test_follows_the_published_schema_of_each_supported_version(minor: int, manifests: Any) -> None:
    checked = 0
    for manifest in manifests.values():
        if not manifest["apiVersion"].startswith("keda.sh/"):  # Kubernetes publishes the schemas of its own kinds alone
            kubernetes_validate.validate(manifest, f"1.{minor}", strict=True)
            checked += 1
    assert checked > 15


def test_a_misspelt_field_is_refused(manifests: Any) -> None:
    wrong = copy.deepcopy(manifests["StatefulSet", "letta"])
    [container] = wrong["spec"]["template"]["spec"]["containers"]
    container["livenessProb"] = container.pop("livenessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessProb"):
        kubernetes_validate.validate(wrong, f"1.{_SUPPORTED[-1]}", strict=True)


def test_the_readme_names_the_versions(checkout: Path) -> None:
    text = (checkout / "deploy/kubernetes/README.md").read_text("utf-8")
    assert f"Kubernetes 1.{_SUPPORTED[0]} to 1.{_SUPPORTED[-1]}" in text


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
                if "valueFrom" in variable:
                    reference = variable["valueFrom"]["configMapKeyRef"]
                    assert reference["key"] in manifests["ConfigMap", reference["name"]]["data"], (name, variable)
                elif variable["name"].endswith("_FILE"):
                    assert variable["value"].removeprefix("/run/secrets/") in items, (name, variable)


def _without_lock(service: Any) -> list[str] | None:
    """The command without the lock of a folder of the host, which a claimed volume needs not; None: the image's own."""
    command: list[str] | None = service.get("command")
    if service.get("entrypoint", [""])[0] == "/opt/alone":
        return None if command == ["postgres"] else command
    return command[2:] if command and command[0] == "/opt/alone" else command


def test_images_and_commands_are_the_compose_files(manifests: Any, compose: Callable[..., Any]) -> None:
    services = compose("docker-compose.yml")["services"]
    for name, spec in _workloads(manifests):
        (container,) = spec["template"]["spec"]["containers"]
        assert container["image"] == services[name]["image"]
        assert container.get("args") == _without_lock(services[name])
        grace = spec["template"]["spec"].get("terminationGracePeriodSeconds", 30)
        assert grace >= int(services[name]["stop_grace_period"].rstrip("s"))


@pytest.mark.parametrize(
    ("workload", "model"), [("letta-bridge", BridgeSettings), ("memory-python", ServiceSettings), ("letta", None)]
)
def test_every_variable_is_one_its_service_knows(workload: str, model: Any, manifests: Any) -> None:
    known = {*_OURS, "LETTA_REDIS_HOST", "LETTA_REDIS_PORT", "LETTA_SERVER_GRACE", "OPENAI_BASE_URL"}
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
        variables = {variable["name"]: variable.get("value") or variable["valueFrom"] for variable in container["env"]}
        shared = ("DATABASE_URL", "DB_PASSWORD_FILE", "VECTORS_ENABLED", "EMBEDDING_MODEL", "EMBEDDING_BASE_URL")
        common.append({key: variables[key] for key in shared})
    assert common[0] == common[1]


def test_every_service_reads_the_model_from_one_place(manifests: Any, compose: Callable[..., Any]) -> None:
    """As in the compose file, where OPENAI_BASE_URL and the models' names stand once in .env."""
    workloads, services = dict(_workloads(manifests)), compose("docker-compose.yml")["services"]
    names = {"LETTA_MODEL", "LETTA_EMBEDDING", "MEMORY_MODEL", "EMBEDDING_MODEL", "EMBEDDING_BASE_URL"}
    names.add("OPENAI_BASE_URL")
    used: dict[str, Any] = {}
    for workload in ("letta", "letta-bridge", "memory-python"):
        (container,) = workloads[workload]["template"]["spec"]["containers"]
        given = {variable["name"]: variable.get("valueFrom") for variable in container["env"]}
        expected = names & services[workload]["environment"].keys()
        assert expected == names & given.keys()
        used |= {given[name]["configMapKeyRef"]["key"]: services[workload]["environment"][name] for name in expected}
    data = manifests["ConfigMap", "model"]["data"]
    assert data.keys() == used.keys()
    # The compose file leaves OpenAI's address out where a service knows it; elsewhere the values are the same.
    assert {key: value for key, value in used.items() if key != "base_url"}.items() <= data.items()
    assert data["base_url"] == services["letta-bridge"]["environment"]["EMBEDDING_BASE_URL"]


def test_every_long_running_service_of_ours_is_restarted_when_it_is_frozen(manifests: Any) -> None:
    for name in ("letta", "letta-bridge", "memory-python"):
        (container,) = dict(_workloads(manifests))[name]["template"]["spec"]["containers"]
        probe = container["livenessProbe"]
        assert probe["httpGet"]["path"] == ("/v1/health/" if name == "letta" else "/livez")
    (letta,) = dict(_workloads(manifests))["letta"]["template"]["spec"]["containers"]
    # Letta's health check shares its event loop with long turns; a restart must not be what ends them.
    assert letta["livenessProbe"]["failureThreshold"] * letta["livenessProbe"]["periodSeconds"] >= 120
    assert letta["startupProbe"], "without one, the first start's preparation of the database counts as frozen"


def test_each_workload_answers_only_who_has_to_ask_it(manifests: Any) -> None:
    services = ["letta-bridge", "memory-python"]
    callers = {
        "letta": ["letta-bridge"],
        "letta-bridge": [],
        "letta-locks": ["letta"],
        "memory-python": ["letta-bridge"],
        "postgres": ["letta", *services],
        "redis": services,
    }
    assert callers.keys() == {name for name, _ in _workloads(manifests)}
    for target, sources in callers.items():
        policy = manifests["NetworkPolicy", target]["spec"]
        assert "Ingress" in policy["policyTypes"]
        (rule,) = policy["ingress"]
        (port,) = rule["ports"]
        assert port["port"] in {port["port"] for port in manifests["Service", target]["spec"]["ports"]}
        asking = [peer["podSelector"]["matchLabels"] for peer in rule["from"] if "podSelector" in peer]
        assert [labels["app"] for labels in asking if labels.get("app") in callers] == sources
        for peer in rule["from"]:
            selector = peer.get("podSelector", peer.get("namespaceSelector"))
            assert selector["matchLabels"], "an empty selector is everybody"


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
