"""Databases with Letta's schema and some rows, of either product, without a Letta."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from letta_server.database_url import DatabaseUrl

ORGANIZATION = "org-00000000-0000-4000-8000-000000000000"


@dataclass
class Filled:
    """A database with Letta's schema, and how to put rows into it."""

    server: Any
    name: str

    @property
    def url(self) -> DatabaseUrl:
        given = self.server.variables(self.name)
        return DatabaseUrl.of_parts(
            host=given["LETTA_PG_HOST"],
            port=int(given["LETTA_PG_PORT"]),
            user=given["LETTA_PG_USER"],
            password=given["LETTA_PG_PASSWORD"],
            name=self.name,
        )

    def execute(self, statement: str, parameters: Any = ()) -> list[Any]:
        with self.server.connect(self.name) as connection:
            cursor = connection.execute(statement, parameters)
            return list(cursor.fetchall()) if cursor.description else []

    def provider(self, name: str, address: str, *, added: bool = False, deleted: bool = False) -> str:
        provider_id = f"provider-{name}"
        self.execute(
            "INSERT INTO providers (id, name, provider_type, provider_category, base_url, organization_id, is_deleted)"
            " VALUES (%s, %s, 'openai', %s, %s, %s, %s)",
            [provider_id, name, "byok" if added else "base", address, ORGANIZATION if added else None, deleted],
        )
        return provider_id

    def model(self, provider_id: str, handle: str, *, kind: str = "llm", deleted: bool = False) -> None:
        name = handle.partition("/")[2]
        self.execute(
            "INSERT INTO provider_models (id, handle, display_name, name, provider_id, model_type, enabled,"
            " model_endpoint_type, is_deleted) VALUES (%s, %s, %s, %s, %s, %s, true, 'openai', %s)",
            [f"model-{handle}-{kind}-{deleted}", handle, name, name, provider_id, kind, deleted],
        )

    def agent(self, agent_id: str, address: str, *tags: str, **llm: Any) -> None:
        config = {"model": "gpt", "model_endpoint": address, "provider_name": "openai", "provider_category": "base"}
        embedding = {"embedding_endpoint": address, "handle": "openai/text-embedding-3-small", "embedding_dim": 1536}
        self.execute(
            "INSERT INTO agents (id, organization_id, message_buffer_autoclear, llm_config, embedding_config)"
            " VALUES (%s, %s, false, %s, %s)",
            [agent_id, ORGANIZATION, json.dumps(config | llm), json.dumps(embedding)],
        )
        for tag in tags:
            self.execute("INSERT INTO agents_tags (agent_id, tag) VALUES (%s, %s)", [agent_id, tag])

    def archive(self, archive_id: str, address: str, *agent_ids: str) -> None:
        embedding = {"embedding_endpoint": address, "handle": "openai/text-embedding-3-small"}
        self.execute(
            "INSERT INTO archives (id, organization_id, name, vector_db_provider, embedding_config)"
            " VALUES (%s, %s, 'archive', 'NATIVE', %s)",
            [archive_id, ORGANIZATION, json.dumps(embedding)],
        )
        for agent_id in agent_ids:
            self.execute(
                "INSERT INTO archives_agents (agent_id, archive_id, is_owner) VALUES (%s, %s, true)",
                [agent_id, archive_id],
            )

    def addresses(self) -> dict[str, str]:
        """Agent or archive → its address; an agent's two are joined where they differ."""
        rows = self.execute(
            "SELECT id, llm_config->>'model_endpoint', embedding_config->>'embedding_endpoint' FROM agents"
        )
        found = {row_id: one if one == other else f"{one} {other}" for row_id, one, other in rows}
        archives = self.execute("SELECT id, embedding_config->>'embedding_endpoint' FROM archives")
        return found | {str(row_id): str(address) for row_id, address in archives}


@pytest.fixture(scope="session")
def template(letta_command: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], str]:
    """Makes a database with Letta's schema on a server once, to be copied."""
    made: dict[int, str] = {}

    def make(server: Any) -> str:
        if server.port not in made:
            name = f"template {server.port}"
            folder = tmp_path_factory.mktemp("template")
            environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **server.variables(name)}
            subprocess.run([letta_command, "init"], cwd=folder, env=environment, check=True, timeout=300)
            made[server.port] = name
        return made[server.port]

    return make


@pytest.fixture
def filled(server: Any, database: str, template: Callable[[Any], str]) -> Filled:
    source = template(server)
    with server.connect() as connection:
        connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{source}"')
    with server.connect(database) as connection:
        connection.execute(
            "INSERT INTO organizations (id, name, privileged_tools) VALUES (%s, 'default', false)", [ORGANIZATION]
        )
    return Filled(server, database)
