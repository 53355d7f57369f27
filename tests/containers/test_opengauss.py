"""The stack with openGauss in PostgreSQL's place. Its double stands in for its image, which nobody here has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from local_stack.containers import run

if TYPE_CHECKING:
    from project_tests.containers.conftest import MakeStack

_LISTENS = "import socket; socket.create_connection(('127.0.0.1', 5432), 3)"


def _double(password: str, postgres: str) -> dict[str, object]:
    """Over docker-compose.yml: the double as the service `opengauss`, in an image that has a Python."""
    options = ["--profile", "7.0", "--listen", "0.0.0.0:5432", "--account", f"letta:{password}"]
    return {
        "upstream": {
            "image": postgres,
            "user": "${AIVTUBER_UID}:${AIVTUBER_GID}",
            "networks": ["data"],
            "secrets": ["database_password"],
            "tmpfs": ["/var/lib/postgresql/data:mode=1777"],
            "environment": {
                "POSTGRES_USER": "letta",
                "POSTGRES_DB": "postgres",  # the services make theirs, through the double
                "POSTGRES_PASSWORD_FILE": "/run/secrets/database_password",
                "PGDATA": "/var/lib/postgresql/data/pgdata",
            },
            "healthcheck": {
                "test": ["CMD", "pg_isready", "--host", "127.0.0.1", "--username", "letta"],
                "interval": "1s",
                "retries": 60,
            },
        },
        "opengauss": {
            "image": "aivtuber/scripted-model:${AIVTUBER_TAG}",
            "user": "${AIVTUBER_UID}:${AIVTUBER_GID}",
            "depends_on": {
                "upstream": {"condition": "service_healthy"},
                "scripted-model": {"condition": "service_started"},  # whose image is built by then
            },
            "entrypoint": ["python", "-m", "opengauss_double"],
            "command": [*options, "--upstream", f"postgresql://letta:{password}@upstream:5432/postgres"],
            "environment": {"PYTHONPATH": "/src"},
            "volumes": ["./tools/opengauss-double/src:/src:ro"],
            "healthcheck": {"test": ["CMD", "python", "-c", _LISTENS]},
        },
    }


def test_agents_remember_on_opengauss(make_stack: MakeStack) -> None:
    stack = make_stack("opengauss")
    run(["chmod", "-R", "go+rX", "tools/opengauss-double/src"], cwd=stack.root)
    stack.prepare("demo", OPENAI_API_KEY="sk-right")
    settings = stack.root / ".env"
    settings.write_text(settings.read_text("utf-8").replace("=postgres\n", "=opengauss\n"), "utf-8")
    image = yaml.safe_load(stack.compose("--profile", "postgres", "config"))["services"]["postgres"]["image"]
    override = Path(stack.root / "docker-compose.override.yml")
    model = yaml.safe_load(override.read_text("utf-8"))["services"]
    services = model | _double(stack.secret("database_password"), image)
    override.write_text(yaml.safe_dump({"services": services}), "utf-8")
    stack.compose("build")
    stack.up()
    assert "postgres" not in stack.services()
    stack.send("My name is Ada.")
    stack.compose("restart", "letta", "letta-bridge")
    stack.up()
    assert stack.send("What is my name?") == "Your name is Ada."
    said = stack.bridge("doctor")
    assert "FAIL" not in said
    assert "openGauss 7.0" in said
    stack.remove()
