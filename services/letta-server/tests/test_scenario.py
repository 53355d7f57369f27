"""The same life of an agent on PostgreSQL and on openGauss: the same outcome, in nothing but statements it accepts.

openGauss is the double here; ``docs/opengauss.md`` says what that proves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from local_stack.databases import bouncing
from local_stack.letta import Letta
from local_stack.valkey import Valkey
from opengauss_double.profiles import PROFILES
from opengauss_double.statements import analysed, syntax_refusal

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

TOLD = ("My name is Alice.", "I have a cat called Tom.", "My name is Bob.", "What is my name?", "我喜欢茶。")
FACTS = ("The user keeps bees.", "The user plays chess on Sundays.", "The user was born in Hangzhou.")
SHOUT = '''
def shout(text: str) -> str:
    """Shout.

    Args:
        text (str): what
    """
    return text.upper()
'''
IDENTITY = {
    "identifier_key": "user-1",
    "name": "Bob",
    "identity_type": "user",
    "properties": [{"key": "city", "value": "Hangzhou", "type": "string"}],
}

OUTCOME: dict[str, Any] = {
    "tools": "archival_memory_insert archival_memory_search conversation_search memory_insert memory_replace",
    "said": [
        ["memory_insert", "Noted: Your name is Alice."],
        ["memory_insert", "Noted: Your cat is called Tom."],
        ["memory_replace", "Noted: Your name is Bob."],
        ["Your name is Bob."],
        ["memory_insert", "记住了：你喜欢茶。"],
    ],
    "remembered": "\nThe user's name is Bob.\nThe user's cat is called Tom.\n用户喜欢茶。",
    "passages": sorted(FACTS),
    "nearest passage": FACTS[1],
    "nearest passage, by the agent's tool": FACTS[2],
    "mentions of the cat": ["I have a cat called Tom.", "Noted: Your cat is called Tom."],
    "messages kept": [*TOLD],
    "copy's answer": [["Your name is Bob."]],
    "copy's memory": "\nThe user's name is Bob.\nThe user's cat is called Tom.\n用户喜欢茶。",
    "tool made twice": "the same, attached once",
    "identity": [200, 409, 200],
    "turns that used memory_replace": 1,
    "tags": ["b", "c"],
    "found by both tags": ["Bob's agent"],
    "file": [200, 200],
    "after deletion": 404,
}


@pytest.fixture
def letta_on_double(
    gauss_factory: Any, scripted_model: Any, database: str, tmp_path: Path
) -> Iterator[Callable[[str], tuple[Letta, Any]]]:
    """A real Letta on an openGauss of that profile, where there was no database before; and what the double sees."""
    locks = Valkey(tmp_path / "locks", durable=False)
    lettas = []

    def start(profile: str) -> tuple[Letta, Any]:
        locks.start()
        locks.wait_ready()
        gauss = gauss_factory(profile)
        gauss.seen.statements.clear()
        gauss.seen.errors.clear()
        url = gauss.double.url(database.replace(" ", "%20"))
        access = scripted_model.access
        letta = Letta(tmp_path / "letta", database_url=url, locks=(locks.host, locks.port), model=access)
        letta.environment = (letta.environment or {}) | {"LETTA_SERVER_FULL_API": "true"}
        lettas.append(letta)
        letta.start()
        letta.wait_ready()
        return letta, gauss.seen

    yield start
    for letta in lettas:
        letta.stop()
    locks.stop()


@pytest.fixture
def letta_on(scripted_model: Any, tmp_path: Path) -> Iterator[Callable[..., Letta]]:
    """Starts a real Letta, with its whole API, on a database."""
    with ExitStack() as held:

        def start(url: str, **variables: str) -> Letta:
            locks = Valkey(tmp_path / "locks", durable=False)
            locks.start()
            held.callback(locks.stop)
            locks.wait_ready()
            letta = Letta(
                tmp_path / "letta",
                database_url=f"{url}?sslmode=disable",
                locks=(locks.host, locks.port),
                model=scripted_model.access,
            )
            letta.environment = (letta.environment or {}) | {"LETTA_SERVER_FULL_API": "true"} | variables
            letta.start()
            held.callback(letta.stop)
            letta.wait_ready()
            return letta

        yield start


@pytest.fixture
def letta_behind(letta_on: Callable[..., Letta], tmp_path: Path) -> Iterator[Callable[..., Letta]]:
    """A real Letta on a database behind a PgBouncer in the given mode."""
    with ExitStack() as held:

        def start(url: str, mode: Any) -> Letta:
            pooler = held.enter_context(bouncing(url, tmp_path / "pgbouncer", mode, default_pool_size="8"))
            size = "8" if mode == "session" else "20"
            return letta_on(pooler.url(), LETTA_PG_POOL_SIZE=size, LETTA_PG_MAX_OVERFLOW="0")

        yield start


def test_letta_lives_on_postgresql(letta_on: Callable[..., Letta], postgres_url: str) -> None:
    assert life(letta_on(postgres_url)) == OUTCOME


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_letta_lives_behind_a_pooler(letta_behind: Callable[..., Letta], postgres_url: str, mode: str) -> None:
    """Also with defaults of the database that would send Letta elsewhere, and with more connections than sessions."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute("CREATE SCHEMA elsewhere")
        for setting in ("DateStyle = German", "standard_conforming_strings = off", "array_nulls = off"):
            connection.execute(f'ALTER DATABASE "{name}" SET {setting}')
        letta = letta_behind(postgres_url, mode)
        # Now that its tables are there, the default leads to other ones.
        connection.execute(f'ALTER DATABASE "{name}" SET search_path = elsewhere')
        connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert life(letta) == OUTCOME
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(talk, [letta] * 16)) == [OUTCOME["said"][:1]] * 16
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'elsewhere'").fetchone()
        assert found == (0,)


def test_behind_a_pooler_on_opengauss(letta_behind: Callable[..., Letta], gauss_factory: Any, database: str) -> None:
    url = gauss_factory("7.0").double.url(database.replace(" ", "%20"))
    assert life(letta_behind(url, "transaction")) == OUTCOME


@pytest.mark.parametrize("profile", ["6.0.2", "7.0"])
def test_letta_lives_on_opengauss(
    profile: str, letta_on_double: Callable[[str], tuple[Letta, Any]], database: str
) -> None:
    letta, seen = letta_on_double(profile)
    assert life(letta) == OUTCOME

    statements = set(seen.statements)
    assert len(statements) > 100
    for word in (
        "ON DUPLICATE KEY UPDATE NOTHING",
        " = excluded.",
        "RETURNING",
        "<=>",
        "set_config('session_timeout', '0'",
    ):
        assert any(word in statement for statement in statements), word
    assert [sql for sql in statements if syntax_refusal(analysed(sql, PROFILES[profile]))] == []
    # Nothing was refused. The errors are PostgreSQL's too: no database at first, an identity made twice, and Letta
    # itself writes a step's metrics twice, and reads and embeds a file in the background that may be deleted meanwhile.
    twice = 'duplicate key value violates unique constraint "{}"'.format
    orphan = 'insert or update on table "{0}" violates foreign key constraint "{0}_file_id_fkey"'.format
    lettas_own = {
        ("23505", twice("step_metrics_pkey")),
        ("23503", orphan("file_contents")),
        ("23503", orphan("source_passages")),
    }
    assert {error for error in seen.errors if error not in lettas_own} == {
        ("3D000", f'database "{database}" does not exist'),
        ("23505", twice("unique_identifier_key_project_id_organization_id")),
    }


def life(letta: Letta) -> dict[str, Any]:
    """An agent is made, talks, remembers, searches, is copied, organised, and deleted; what came of it, without ids."""
    headers = {"Authorization": f"Bearer {letta.api_key}"}
    with httpx.Client(base_url=f"{letta.url}/v1", headers=headers, timeout=60, trust_env=False) as client:
        return _Life(client, letta).lived()


def talk(letta: Letta) -> list[Any]:
    """A new agent is told something, while others are."""
    headers = {"Authorization": f"Bearer {letta.api_key}"}
    with httpx.Client(base_url=f"{letta.url}/v1", headers=headers, timeout=60, trust_env=False) as client:
        one = _Life(client, letta)
        agent = one._call("POST", "/agents/", json=one._agent())["id"]
        return [one._say(agent, TOLD[0])]


class _Life:
    def __init__(self, client: httpx.Client, letta: Letta) -> None:
        self._client = client
        self._letta = letta

    def lived(self) -> dict[str, Any]:
        made = self._call("POST", "/agents/", json=self._agent())
        agent = made["id"]
        tools = {tool["name"]: tool["id"] for tool in made["tools"]}
        outcome: dict[str, Any] = {"tools": " ".join(sorted(tools))}
        outcome["said"] = [self._say(agent, text) for text in TOLD]
        outcome["remembered"] = self._memory(agent)
        replaced = {"agent_id": agent, "tools_used": [tools["memory_replace"]]}
        outcome["turns that used memory_replace"] = len(self._call("GET", "/_internal_runs/", params=replaced))
        return outcome | self._searched(agent) | self._copied(agent) | self._organised(agent) | self._deleted(agent)

    def _searched(self, agent: str) -> dict[str, Any]:
        for fact in FACTS:
            self._call("POST", f"/agents/{agent}/archival-memory", json={"text": fact, "tags": ["fact"]})
        passages = self._call("GET", f"/agents/{agent}/archival-memory")
        nearest = self._call("GET", f"/agents/{agent}/archival-memory/search", params={"query": FACTS[1], "top_k": 1})
        by_tool = self._run(agent, "archival_memory_search", query=FACTS[2])
        cat = self._run(agent, "conversation_search", query="cat", roles=["user", "assistant"])["results"]
        messages = self._call("GET", f"/agents/{agent}/messages", params={"order": "asc"})
        return {
            "passages": sorted(passage["text"] for passage in passages),
            "nearest passage": nearest["results"][0]["content"],
            "nearest passage, by the agent's tool": by_tool[0]["content"],
            "mentions of the cat": sorted(one["content"] for one in cat),
            "messages kept": [one["content"] for one in messages if one["message_type"] == "user_message"],
        }

    def _copied(self, agent: str) -> dict[str, Any]:
        file = json.dumps(self._call("GET", f"/agents/{agent}/export")).encode()
        files = {"file": ("bob.af", file, "application/json")}
        (copy,) = self._call("POST", "/agents/import", files=files)["agent_ids"]
        outcome = {"copy's answer": [self._say(copy, "What is my name?")], "copy's memory": self._memory(copy)}
        self._call("DELETE", f"/agents/{copy}")
        return outcome

    def _organised(self, agent: str) -> dict[str, Any]:
        """What else is written in ways that differ between the two: upserts, and unique keys that hold NULL."""
        tools = [self._call("PUT", "/tools/", json={"source_code": SHOUT, "source_type": "python"}) for _ in range(2)]
        for tool in tools:
            self._call("PATCH", f"/agents/{agent}/tools/attach/{tool['id']}")
        attached = [tool["name"] for tool in self._call("GET", f"/agents/{agent}/tools")].count("shout")
        identity = [self._client.request(how, "/identities/", json=IDENTITY) for how in ("POST", "POST", "PUT")]
        tagged = self._call("PATCH", f"/agents/{agent}", json={"tags": ["b", "c"]})
        found = self._call("GET", "/agents/", params={"tags": ["b", "c"], "match_all_tags": True})
        folder = self._client.post("/folders/", json={"name": "notes", "embedding": self._letta.embedding})
        upload = {"file": ("bees.txt", b"Bees dance. " * 50, "text/plain")}
        uploaded = self._client.post(f"/folders/{folder.json()['id']}/upload", files=upload)
        for made in (uploaded, *identity[-1:]):
            assert made.status_code == 200, made.text
        outcome = {
            "tool made twice": "the same, attached once"
            if (tools[0]["id"], attached) == (tools[1]["id"], 1)
            else tools,
            "identity": [answer.status_code for answer in identity],
            "tags": sorted(tagged["tags"]),
            "found by both tags": [one["name"] for one in found],
            "file": [folder.status_code, uploaded.status_code],
        }
        # The next run shall find the server as this one did.
        self._call("DELETE", f"/identities/{identity[0].json()['id']}")
        self._call("DELETE", f"/folders/{folder.json()['id']}")
        self._call("DELETE", f"/tools/{tools[0]['id']}")
        return outcome

    def _deleted(self, agent: str) -> dict[str, Any]:
        self._call("DELETE", f"/agents/{agent}")
        return {"after deletion": self._client.get(f"/agents/{agent}").status_code}

    def _agent(self) -> dict[str, Any]:
        return {
            "name": "Bob's agent",
            "model": self._letta.model,
            "embedding": self._letta.embedding,
            "memory_blocks": [{"label": "human", "value": ""}, {"label": "persona", "value": "I listen."}],
            "tools": ["archival_memory_insert", "archival_memory_search"],
            "tags": ["a", "b"],
        }

    def _say(self, agent: str, text: str) -> list[str]:
        """The tools it called, and its answer."""
        answer = self._call("POST", f"/agents/{agent}/messages", json={"input": text})
        called = [one["tool_call"]["name"] for one in answer["messages"] if one["message_type"] == "tool_call_message"]
        return called + [one["content"] for one in answer["messages"] if one["message_type"] == "assistant_message"]

    def _memory(self, agent: str) -> str:
        return str(self._call("GET", f"/agents/{agent}/core-memory/blocks/human")["value"])

    def _run(self, agent: str, tool: str, **arguments: Any) -> Any:
        ran = self._call("POST", f"/agents/{agent}/tools/{tool}/run", json={"args": arguments})
        assert ran["status"] == "success", ran
        return ran["func_return"]

    def _call(self, method: str, path: str, **content: Any) -> Any:
        answer = self._client.request(method, path, **content)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
        return answer.json() if answer.content else None
