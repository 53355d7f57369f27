"""What each container may do: its user, its capabilities, where it can write, what of the secrets can be seen."""

from __future__ import annotations

import json
import re

import pytest

from local_stack.containers import ContainerStack, run

WRITABLE = {
    "letta": {"/data", "/tmp"},
    "letta-bridge": {"/data", "/data/uploads", "/tmp"},
    "letta-locks": {"/data"},
    "memory-python": {"/tmp"},
    "postgres": {"/tmp", "/var/lib/postgresql/data", "/var/run/postgresql"},
    "redis": {"/data", "/run/redis"},
    "scripted-model": {"/tmp"},
}
_MOUNTS = r"""while read -r _ place _; do
    case $place in /proc* | /dev* | /sys*) ;; *) if [ -w "$place" ]; then echo "$place"; fi ;; esac
done < /proc/mounts"""
_ELSEWHERE = 'for at in / /etc /home /opt /root /usr /var; do if touch "$at/x" 2> /dev/null; then echo "$at"; fi; done'


def test_every_service_is_looked_at(stack: ContainerStack) -> None:
    assert set(stack.services()) == WRITABLE.keys()


@pytest.mark.parametrize("service", WRITABLE)
def test_a_container_writes_to_its_own_folders_alone(service: str, stack: ContainerStack) -> None:
    inside = ["exec", "-T", service, "sh", "-c"]
    places = set(stack.compose(*inside, _MOUNTS).split())
    # /var/run is a link to /run in Debian.
    assert {re.sub(r"^/run/postgresql", "/var/run/postgresql", place) for place in places} == WRITABLE[service]
    assert stack.compose(*inside, _ELSEWHERE) == ""


@pytest.mark.parametrize("service", WRITABLE)
def test_a_container_has_no_rights_and_can_get_none(service: str, stack: ContainerStack) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in stack.compose("exec", "-T", service, "cat", "/proc/1/status").splitlines()
        if ":\t" in line
    )
    assert set(status["Uid"].split()) == {stack.setting("AIVTUBER_UID")}
    assert set(status["Gid"].split()) == {stack.setting("AIVTUBER_GID")}
    assert status["Uid"].split()[0] != "0"
    for held in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[held], 16) == 0, held
    assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize("service", WRITABLE)
def test_no_secret_is_in_what_the_engine_shows(service: str, stack: ContainerStack) -> None:
    shown = json.dumps(stack.inspect(service))
    for file in (stack.root / "secrets").iterdir():
        assert file.read_text("utf-8").strip() not in shown, file.name


@pytest.mark.parametrize("service", ["letta-bridge", "memory-python", "letta", "scripted-model"])
def test_an_image_holds_no_tools_of_the_tests(service: str, stack: ContainerStack) -> None:
    words = ["docker", "run", "--rm", "--entrypoint", "python", stack.inspect(service)["Config"]["Image"], "-c"]
    assert run([*words, "import importlib.util as u; print(u.find_spec('pytest'))"]).strip() == "None"


def test_only_the_bridge_and_redis_are_reachable_and_on_loopback(stack: ContainerStack) -> None:
    for service in WRITABLE:
        ports = stack.inspect(service)["NetworkSettings"]["Ports"] or {}
        hosts = {binding["HostIp"] for bindings in ports.values() for binding in bindings or ()}
        assert hosts == ({"127.0.0.1"} if service in {"letta-bridge", "redis"} else set()), service
