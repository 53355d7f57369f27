"""The real Letta server, as a child process."""

from __future__ import annotations

import secrets
from pathlib import Path

from local_stack.models import ModelAccess
from local_stack.ports import HOST, free_port
from local_stack.processes import Process
from local_stack.programs import answers, environment, letta_program
from shared_utils.private_files import make_folder


class Letta(Process):
    """A Letta server on a PostgreSQL, with a password.

    Args:
        data: its directory; made if missing. Holds the server password (mode 0600).
        database_url: PostgreSQL; database and schema are created where missing.
        locks: host and port of the Redis it keeps its locks in; it can say no more than that about a Redis.
        model: what its agents speak through.
        port: 0 picks a free one.
        logs: directory of its log; the data directory where not given.
        workers: processes that serve; by default as many as this process's own environment says.
    """

    def __init__(
        self,
        data: Path,
        *,
        database_url: str,
        locks: tuple[str, int],
        model: ModelAccess,
        port: int = 0,
        logs: Path | None = None,
        workers: int | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.model = model.handle
        self.embedding = model.embedding
        make_folder(data)
        self.api_key = _password(data / "password")
        super().__init__(
            "letta",
            [letta_program(), "run", "--host", HOST, "--port", str(self.port), "--data", data.resolve()],
            logs=logs or data,
            environment=environment(
                DATABASE_URL=None,
                LETTA_PG_URI=database_url,
                LETTA_REDIS_HOST=locks[0],
                LETTA_REDIS_PORT=str(locks[1]),
                LETTA_SERVER_PASSWORD=self.api_key,
                **({} if workers is None else {"LETTA_SERVER_WORKERS": str(workers)}),
                **model.letta_variables,
            ),
            ready=answers(f"{self.url}/v1/health/"),
            cwd=data,  # a .env file elsewhere is not meant for it
            start_timeout=180.0,
        )


def _password(file: Path) -> str:
    """The password in `file`, created on first use, so that clients keep working after a restart."""
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(24))
    return file.read_text().strip()
