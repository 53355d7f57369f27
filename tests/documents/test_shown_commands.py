"""Every command that a block of a document shows is run as it stands, or named with what runs it or why nothing does.

The bridge's commands run here one after the other, against a real Redis, a real PostgreSQL, a double of Letta and the
scripted model. Pieces of code within a sentence are looked up by test_commands.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from typer.testing import CliRunner

from letta_bridge.main import app
from local_stack.fixtures import DoubleFactory, missing_parts
from local_stack.models import ScriptedModel
from local_stack.programs import debian_program, program
from shared_utils.contracts.limits import Limits
from shared_utils.contracts.messages import parse_task
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore

ROOT = Path(__file__).parents[2]
LISTED = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
DOCUMENTS = sorted(name for name in LISTED.split("\0") if name and not name.startswith("CHANGELOG"))
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LANGUAGES = {"sh", "bash", "console"}
BRIDGE = re.compile(r"(?<!\S)letta-bridge +([^|&>]+)")
QUEUE = "{letta_requests}"

RUN_BY = {
    r"\./run demo$": "tests/acceptance/test_demo.py::test_the_demonstration_succeeds",
    r"\./run up$": "tests/acceptance/test_up.py::test_memory_survives_and_nothing_keeps_running",
    r"\./run bridge (status|send .+)$": (
        "tests/acceptance/test_readme.py::test_readme_conversation_gives_the_shown_answers"
    ),
    r"\./run bridge (status|send .+|tail .+)$": "tests/acceptance/test_readme.py::test_the_quickstarts_commands_work",
    r"\./deploy/prepare demo && docker compose up ": (
        "tests/containers/test_first_try.py::test_one_command_gives_a_stack_without_a_key"
    ),
    r"(\w+=<.+?> )?(\w+=\S+ )*\S*<.+>\S* \./deploy/prepare join$": (
        "tests/containers/test_joining.py::test_join_adds_letta_to_a_redis_and_a_memory_python"
    ),
    r".*<.+>\S* \./deploy/prepare redis$": (
        "tests/containers/test_joining.py::test_an_existing_redis_serves_the_whole_stack"
    ),
    r"COMPOSE_PROJECT_NAME=another \./deploy/prepare && docker compose up ": (
        "tests/containers/test_backup.py::test_a_backup_of_the_bridge_is_restored_into_another_copy"
    ),
    r"\./deploy/prepare && docker compose restart ": (
        "tests/containers/test_first_try.py::test_a_missing_and_a_wrong_key_are_named_and_a_new_one_reaches_the_services"
    ),
    r"docker compose up --detach --wait$": "tests/containers/test_survival.py::test_down_and_up_keep_memory",
    r"docker compose exec letta-bridge letta-bridge doctor$": (
        "tests/containers/test_first_try.py::test_one_command_gives_a_stack_without_a_key"
    ),
    r"docker compose exec redis sh -c .+redis-cli --user admin'$": (
        "tests/containers/test_first_try.py::test_the_administrators_prompt_has_all_rights"
    ),
    r"docker inspect --format .+State\.Health": (
        "tests/containers/test_first_try.py::test_an_unhealthy_container_says_why"
    ),
    r"docker compose (run --rm .+ letta-bridge (backup|restore)|(stop|start) letta-bridge)": (
        "tests/containers/test_backup.py::test_a_backup_of_the_bridge_is_restored_into_another_copy"
    ),
    r"docker compose (exec -T postgres .+pg_(dump|restore)|up --detach --wait postgres)": (
        "tests/containers/test_backup.py::test_a_dump_of_lettas_database_is_restored_into_another_copy"
    ),
    r"\./deploy/prepare( whole)?$": "tests/deploy/test_prepare.py::test_makes_every_secret_the_compose_file_names",
    r"redis-cli .*(SUBSCRIBE task_stream:|XREAD BLOCK \d+ STREAMS '\{letta_requests\}:stream:|LPUSH letta_control )": (
        "tests/documents/test_shown_listeners.py::test_redis_cli_listens_and_interrupts"
    ),
    r"redis-cli .*LPUSH letta_requests": (
        "tests/documents/test_shown_commands.py::test_redis_cli_command_of_the_readme_pushes_a_task"
    ),
    r"redis-cli .*SUBSCRIBE letta_responses": (
        "tests/deploy/test_acl.py::test_producer_can_push_wait_and_read_missed_replies"
    ),
    r"REDIS_URL=\S+ LETTA_API_URL=\S+ .*letta-bridge run$": (
        "tests/acceptance/test_many_users.py::test_two_hundred_tasks_of_twenty_users_at_once"
    ),
    r"REDIS_URL=\S+ memory-python run$": (
        "services/memory-python/tests/test_survival.py::test_shutdown_finishes_tasks_in_time_and_releases_the_others_in_order"
    ),
    r"LETTA_PG_URI=\S+ .*letta-server run$": (
        "services/letta-server/tests/test_run.py::test_from_an_empty_server_to_an_agent_that_is_there_after_a_restart"
    ),
    r"DATABASE_URL=\S+ letta-bridge migrate --grant bridge$": (
        "services/letta-bridge-python/tests/cli/test_cli_state.py::"
        "test_a_service_may_run_as_a_role_that_can_change_no_table"
    ),
    r"DATABASE_URL=\S+ DB_GENERATE_SCHEMAS=false letta-bridge run$": (
        "services/letta-bridge-python/tests/cli/test_cli_state.py::"
        "test_a_service_may_run_as_a_role_that_can_change_no_table"
    ),
    r"pip install \./clients/python$": ("tests/deploy/test_wheels.py::test_the_client_needs_redis_py_and_nothing_else"),
    r"api ": "services/letta-bridge-python/tests/http/test_running_bridge.py::test_api_serves_sessions",
    r"letta-bridge run$": "services/letta-bridge-python/tests/http/test_running_bridge.py::test_api_serves_sessions",
    r"letta-bridge doctor$": (
        "services/letta-bridge-python/tests/doctor/test_doctor.py::test_doctor_finds_no_fault_on_a_real_letta"
    ),
    r"memory-python run$": "services/memory-python/tests/test_survival.py::test_it_stops_while_redis_is_unavailable",
    r"memory-python --version$": "tests/deploy/test_wheels.py::test_program_prints_the_version_of_its_distribution",
    r"memory-python stats": "services/memory-python/tests/test_health.py::test_stats_from_the_command_line",
    r"letta-bridge tail(?!.*--no-follow)": (
        "services/letta-bridge-python/tests/cli/test_cli_operator.py::test_ctrl_c_ends_a_following_tail_silently"
    ),
    r"letta-bridge vectors import --from \S+( --dry-run)?$": (
        "services/letta-bridge-python/tests/vectors/test_vectors_cli.py::test_import_reports_its_results"
    ),
}
"""Lines that another test runs, or runs with other values in their places."""

NOT_RUN = {
    r"git pull && ": "a new release",
    r'echo "sk-…" >': "an operator's secret",
    r"umask 077$": "the shell's own",
    r"DATABASE_URL=\S+$": "a setting",
    r"api\(\) ": "the shell's own; what it asks for is run",
    r"\./run sync && ": "how every test run begins",
}
"""Lines that no test runs, and why."""


def lines(document: str) -> Iterator[Any]:
    """The commands of a document's blocks, without prompts, comments and what they print."""
    for language, block in BLOCK.findall((ROOT / document).read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            shown = re.sub(r"(^|\s)#.*", "", " ".join(line.split())).strip()
            if language == "console":
                shown = shown.removeprefix("$ ") if shown.startswith("$ ") else ""
            if shown and language in LANGUAGES:
                yield shown


SHOWN = [(document, line) for document in DOCUMENTS for line in lines(document)]


def named(line: Any, table: Any) -> Any:
    return any(re.match(pattern, line) for pattern in table)


HERE = {
    document: [line for shown_in, line in SHOWN if shown_in == document and not named(line, {**RUN_BY, **NOT_RUN})]
    for document in DOCUMENTS
}
HELP = [line for line in itertools.chain(*HERE.values()) if line.endswith(" --help")]


def test_every_shown_command_is_run_or_named() -> None:
    unnamed = [line for line in itertools.chain(*HERE.values()) if not BRIDGE.search(line) and line not in HELP]
    assert unnamed == []


def test_every_name_is_of_a_shown_command() -> None:
    for pattern in (*RUN_BY, *NOT_RUN):
        assert any(re.match(pattern, line) for _, line in SHOWN), pattern


@pytest.mark.parametrize("test", sorted(set(RUN_BY.values())))
def test_tests_that_run_shown_commands_exist(test: Any) -> None:
    path, _, name = test.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.process
@pytest.mark.parametrize("line", HELP)
def test_shown_help_is_there(line: Any) -> None:
    name, *words = line.split()
    said = subprocess.run([program(name), *words], capture_output=True, check=True, text=True, timeout=60).stdout
    assert "Usage: " in said


@pytest.mark.integration
def test_redis_cli_command_of_the_readme_pushes_a_task(redis_url: str) -> None:
    with missing_parts():
        client = debian_program("redis-cli", package="redis-tools")
    pushed = {line for _, line in SHOWN if "LPUSH letta_requests" in line}
    assert len(pushed) >= 2  # of both READMEs, and of the page on streams
    with redis.Redis.from_url(redis_url) as server:
        for line in pushed:
            port = str(server.connection_pool.connection_kwargs["port"])
            words = shlex.split(line.replace("16379", port))
            subprocess.run([client, *words[1:]], check=True, timeout=60)
            assert parse_task(server.rpop("letta_requests"), Limits()).user_id in {"ada", "xiaoming"}


@pytest.fixture
def place(
    tmp_path: Path,
    redis_url: str,
    postgres_url: str,
    scripted_model: ScriptedModel,
    letta_double: DoubleFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dict[str, Any]]:
    """Where the commands run: a queue with a bridge and dead letters, a database, a file of tasks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.jsonl").write_text('{"task_id":"t1","user_id":"ada","content":"hi"}\n', encoding="utf-8")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE bridge LOGIN")
    variables = {
        "REDIS_URL": redis_url,
        "DATABASE_URL": postgres_url,
        "LETTA_API_URL": letta_double().url,
        "EMBEDDING_BASE_URL": scripted_model.url,
        "DATA_DIR": str(tmp_path / "data"),
        "LETTA_BRIDGE_CONFIG": str(ROOT / "config.json"),
        "TERM": "dumb",
    }
    assert CliRunner().invoke(app, ["migrate"], env=variables).exit_code == 0
    yield variables
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP OWNED BY bridge")
        connection.execute("DROP ROLE bridge")


def refill(client: Any) -> None:
    """What commands look at and take away: a live bridge, two dead letters; their ids."""
    client.zadd(f"{QUEUE}:bridges", {"one": (time.time() + 3600) * 1000})
    client.delete(f"{QUEUE}:dead")
    for number in range(2):
        about = {"code": "too_many_deliveries", "reason": "tried", "attempts": 2, "time": 1.0, "user_id": "ada"}
        client.lpush(f"{QUEUE}:dead", f'{json.dumps(about)}\n{{"user_id":"ada","content":"{number}"}}')


def existing(client: Any, database_url: Any) -> dict[str, Callable[..., Any]]:
    """What stands in for the ids that a document shows: two dead letters', a session's, and names in capitals."""

    async def session() -> Any:
        store = DatabaseSessionStore(Database(DatabaseConfig.model_validate({"db_url": database_url})))
        made = await store.reserve("ada", "default")
        await store.close()
        return made.session_id

    letters = [hashlib.sha1(letter).hexdigest() for letter in client.lrange(f"{QUEUE}:dead", 0, 1)]  # noqa: S324
    return {
        "dfe4": lambda: letters[0][:12],
        "371f": lambda: letters[1][:12],
        "ID": lambda: asyncio.run(session()),
        "MODEL": lambda: "model",
        "DIMENSIONS": lambda: "3",
    }


@pytest.mark.integration
@pytest.mark.parametrize("document", [document for document, commands in HERE.items() if commands])
def test_shown_commands_of_the_bridge_work(document: str, place: dict[str, Any], tmp_path: Path) -> None:
    wrong = []
    with redis.Redis.from_url(place["REDIS_URL"]) as client:
        for shown in (shown for line in HERE[document] for shown in BRIDGE.findall(line)):
            refill(client)
            known = existing(client, place["DATABASE_URL"])
            words = [known[word]() if word in known else word for word in shlex.split(shown)]
            words = [word.replace("/backups", str(tmp_path / "backups")) for word in words]
            given = (tmp_path / "tasks.jsonl").read_text(encoding="utf-8") if words[-1] == "-" else "y\n"
            empty = {"DB_SCHEMA": "restored"} if words[0] == "restore" else {}
            result = CliRunner().invoke(app, words, env=place | empty, input=given)
            if result.exit_code:
                wrong.append((shown, result.exit_code, result.output))
    assert not wrong, "\n".join(map(str, wrong))
