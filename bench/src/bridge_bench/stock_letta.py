"""Letta as its own documentation starts it: ``letta server``, with whatever it has for defaults."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from bridge_bench.errors import BenchError
from local_stack.models import ModelAccess
from local_stack.ports import HOST, free_port
from local_stack.processes import Process
from local_stack.programs import answers, environment, letta_program


class StockLetta(Process):
    """A Letta server that nobody has tuned: it gets a database, a model, and nothing else.

    Args:
        data: becomes its HOME and working directory, because it writes into both.
        database_url: PostgreSQL, with Letta's schema in it: unlike letta-server, it makes none.
        model: what its agents speak through.
    """

    def __init__(self, data: Path, *, database_url: str, model: ModelAccess) -> None:
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        data.mkdir(parents=True, exist_ok=True)
        super().__init__(
            "stock-letta",
            [letta_program().with_name("letta"), "server", "--port", str(self.port)],
            logs=data,
            environment=stock_variables(environment(), data, LETTA_PG_URI=database_url, **model.variables),
            ready=answers(f"{self.url}/v1/health/"),
            cwd=data,
            start_timeout=180.0,
        )


def stock_variables(current: Mapping[str, str], home: Path, **given: str) -> dict[str, str]:
    """The environment with nothing of Letta's in it but what is given: a default is one only where nobody spoke."""
    kept = {name: value for name, value in current.items() if not name.startswith(("LETTA_", "OPENAI_"))}
    return {**kept, "HOME": str(home), **given}


def make_schema(data: Path, database_url: str) -> None:
    """Letta's schema in a database that may not exist yet.

    Raises:
        BenchError: letta-server could not make it.
    """
    data.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(  # noqa: S603 - the project's own program
        [letta_program(), "init", "--data", data.resolve()],
        env=stock_variables(environment(), data, LETTA_PG_URI=database_url),
        cwd=data,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise BenchError(f"Letta's schema could not be made: {made.stderr.strip()[-500:]}")
