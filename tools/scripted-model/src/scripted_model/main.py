"""The command line: ``scripted-model --port 0``."""

from __future__ import annotations

import resource
import signal
import sys
from typing import Annotated, Any

import typer

from scripted_model.app import application
from scripted_model.faults import Dial
from scripted_model.providers import PROVIDERS, Imitation
from scripted_model.server import server


def _run(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 0,
    model: Annotated[list[str] | None, typer.Option(help="Model id to offer; may be repeated.")] = None,
    context_length: Annotated[int, typer.Option(help="Context window to claim, in tokens.")] = 128_000,
    latency_ms: Annotated[float, typer.Option(help="Delay of every chat completion.", min=0)] = 0.0,
    pace_ms: Annotated[float, typer.Option(help="Pause between two tokens of a streamed answer.", min=0)] = 0.0,
    fail_rate: Annotated[float, typer.Option(help="Share of chat completions that fail.", min=0, max=1)] = 0.0,
    fail_status: Annotated[int, typer.Option(help="HTTP status of failed completions.", min=400, max=599)] = 500,
    seed: Annotated[int, typer.Option(help="Which completions fail.")] = 0,
    provider: Annotated[str | None, typer.Option(help=f"Imitate a provider: {', '.join(PROVIDERS)}.")] = None,
) -> None:
    """A deterministic OpenAI-compatible model: stores stated facts, answers from memory, echoes otherwise.

    Prints one line `ready http://HOST:PORT/v1` on standard output once it listens.
    """
    _allow_many_connections()
    # uvicorn raises the signal again when it has stopped, and a container would have failed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    dial = Dial(
        action="fail" if fail_rate else None,
        status=fail_status,
        latency_ms=latency_ms,
        pace_ms=pace_ms,
        rate=fail_rate or 1.0,
        seed=seed,
    )
    if provider is None:
        app: Any = application(models=model or ["scripted"], dial=dial, context_length=context_length)
    elif (found := PROVIDERS.get(provider)) is not None:
        imitated = application(models=[found.model], dial=dial, context_length=context_length, thinks=found.thinks)
        app = Imitation(imitated, found)
    else:
        raise typer.BadParameter(f"there is no imitation of {provider}; there are {', '.join(PROVIDERS)}")
    server(app, host, port, lambda url: typer.echo(f"ready {url}")).run()


def _allow_many_connections() -> None:
    """Raise the limit of open files: a test may leave thousands of requests open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Run the command line."""
    typer.run(_run)


if __name__ == "__main__":
    main()
