"""llama.cpp's server with one model: ``python -m local_stack.real_model.llama``, with the packages on PYTHONPATH."""

from __future__ import annotations

import argparse
import importlib
import signal
from pathlib import Path
from typing import Any

from local_stack.ports import HOST


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", required=True)
    for number in ("port", "context", "slots", "threads"):
        parser.add_argument(f"--{number}", type=int, required=True)
    given = parser.parse_args()
    runtime: Any = importlib.import_module("xllamacpp")
    parameters = runtime.CommonParams()
    parameters.model.path = str(given.model)
    parameters.model_alias = {given.name}
    parameters.hostnames, parameters.port, parameters.ui = [HOST], given.port, False
    parameters.n_ctx, parameters.n_parallel = given.context, given.slots
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = given.threads
    server = runtime.Server(parameters)  # it serves in threads of its own
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


if __name__ == "__main__":
    main()
