"""The project's own two services, as child processes."""

from __future__ import annotations

from pathlib import Path

from local_stack.letta import Letta
from local_stack.models import ModelAccess
from local_stack.ports import HOST, free_port
from local_stack.processes import Process
from local_stack.programs import CHECKOUT, CONFIG, answers, environment, program
from shared_utils.private_files import make_folder


class Bridge(Process):
    """A letta-bridge.

    Args:
        data: its data directory; bridges that share a queue share it.
        letta: the server, or just an address: a proxy in front of one, or nothing at all.
        variables: further environment, wins over everything else; None takes a variable away.
    """

    def __init__(
        self,
        data: Path,
        *,
        redis_url: str,
        letta: Letta | str,
        port: int = 0,
        logs: Path | None = None,
        name: str = "letta-bridge",
        variables: dict[str, str | None] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        make_folder(data)
        settings: dict[str, str | None] = {
            "REDIS_URL": redis_url,
            "DATABASE_URL": None,
            **_letta_settings(letta),
            "BRIDGE_HTTP_HOST": HOST,
            "BRIDGE_HTTP_PORT": str(self.port),
            "DATA_DIR": str(data.resolve()),
            "LETTA_BRIDGE_CONFIG": str(CONFIG),
        }
        wanted = settings | (variables or {})
        self.variables = {name: value for name, value in wanted.items() if value is not None}
        """What it has in its environment beside this process's own variables."""
        super().__init__(
            name,
            [program("letta-bridge"), "run"],
            logs=logs or data,
            environment=environment(**wanted),
            ready=answers(f"{self.url}/readyz"),
            cwd=CHECKOUT,
            stop_timeout=30.0,  # it may use its shutdown grace
        )


class Memory(Process):
    """A memory-python.

    Args:
        model: what it answers with while Letta is away; None: with a plain sentence.
        variables: further environment, wins over everything else; None takes a variable away.
    """

    def __init__(
        self,
        *,
        logs: Path,
        redis_url: str,
        model: ModelAccess | None = None,
        port: int = 0,
        variables: dict[str, str | None] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        settings: dict[str, str | None] = {
            "REDIS_URL": redis_url,
            "MEMORY_HTTP_HOST": HOST,
            "MEMORY_HTTP_PORT": str(self.port),
            "LETTA_BRIDGE_CONFIG": str(CONFIG),
            **_model_settings(model),
        }
        super().__init__(
            "memory-python",
            [program("memory-python"), "run"],
            logs=logs,
            environment=environment(**settings | (variables or {})),
            ready=answers(f"{self.url}/readyz"),
            cwd=CHECKOUT,
        )


def _letta_settings(letta: Letta | str) -> dict[str, str | None]:
    if isinstance(letta, str):
        return {"LETTA_API_URL": letta, "LETTA_API_KEY": None}
    return {
        "LETTA_API_URL": letta.url,
        "LETTA_API_KEY": letta.api_key,
        "LETTA_MODEL": letta.model,
        "LETTA_EMBEDDING": letta.embedding,
    }


def _model_settings(model: ModelAccess | None) -> dict[str, str | None]:
    if model is None:
        return dict.fromkeys(("OPENAI_BASE_URL", "OPENAI_API_KEY", "MEMORY_MODEL"))
    return {"MEMORY_MODEL": model.name, **model.variables}
