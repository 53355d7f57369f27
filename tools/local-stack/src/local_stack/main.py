"""The command line: `local-stack up` and `local-stack demo`."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Annotated

import typer

from local_stack.demo import SHORT_TERM, Demo
from local_stack.environment_file import DATA_FOLDER, DATA_VARIABLE
from local_stack.errors import StackError
from local_stack.service_problems import ServiceProblems
from local_stack.stack import Ports, Stack
from local_stack.watch import watch

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Run the whole stack on this machine, without Docker. All services listen only on 127.0.0.1.",
)


def _port(what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=f"Port of {what}.", metavar="PORT", min=0, max=65535)
    return option


@app.command()
def up(
    *,
    redis_port: Annotated[int, _port("Redis (an embedded Valkey)")] = 16379,
    letta_port: Annotated[int, _port("the Letta server")] = 8283,
    bridge_port: Annotated[int, _port("the bridge's health and metrics")] = 8290,
    memory_port: Annotated[int, _port("memory-python's health")] = 8285,
    model_port: Annotated[int, _port("the scripted model")] = 8291,
    postgres_port: Annotated[int, _port("the embedded PostgreSQL")] = 15432,
    data: Annotated[
        Path,
        typer.Option(
            envvar=DATA_VARIABLE,
            help="Directory for persistent data and logs.",
            metavar="DIR",
        ),
    ] = DATA_FOLDER,
    take_queue: Annotated[
        bool, typer.Option("--take-queue", help="Serve the queue in REDIS_URL even if another stack has served it.")
    ] = False,
) -> None:
    """Start the stack in the foreground; Ctrl-C stops it, and the data is kept. A port of 0 picks a free one.

    When all services are ready, one line is printed on standard output:

        ready redis=URL letta=URL bridge=URL memory=URL model=URL postgres=URL

    Progress and problems, one sentence each, go to standard error. A service that ends by itself is started again.
    While the stack runs, './run bridge' in another shell uses its environment, from the file 'env' in its directory
    (STACK_DATA=DIR names another directory than the default).

    REDIS_URL and DATABASE_URL in the environment name a Redis and a PostgreSQL to use instead of the embedded ones. The
    command refuses a queue in that Redis that another stack serves or has served. OPENAI_API_KEY, OPENAI_BASE_URL or
    both name a model to use instead of the scripted one; LETTA_MODEL and LETTA_EMBEDDING are then its handles in Letta,
    MEMORY_MODEL its name for memory-python.
    """
    ports = Ports(redis_port, letta_port, bridge_port, memory_port, model_port, postgres_port)
    with _ending_well(), Stack(data, ports, announce=_progress, take_queue=take_queue) as stack:
        typer.echo(stack.ready_line)
        _serve(stack)


@app.command()
def demo(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the stack running afterwards, until Ctrl-C.")] = False,
) -> None:
    """Start a new stack, hold a short conversation, kill services, and show that memory survives.

    It uses free ports and a scratch directory, which it removes. Exit code 0 only if every expectation held.
    """
    held = False
    with (
        _ending_well(),
        tempfile.TemporaryDirectory(prefix="letta-bridge-demo-", ignore_cleanup_errors=True) as scratch,
        Stack(Path(scratch), variables=_without_stores(), short_term=SHORT_TERM, announce=_progress) as stack,
    ):
        held = Demo(stack, typer.echo).run()
        if not held:
            _show_logs(stack)
        if keep:
            typer.echo(f"\n{stack.ready_line}\n(Ctrl-C ends it)")
            _serve(stack)
    raise typer.Exit(0 if held else 1)


def _serve(stack: Stack) -> None:
    with suppress(KeyboardInterrupt):
        troubles = ServiceProblems({part.name: part.url for part in (stack.bridge, stack.memory)}, _progress)
        watch(stack.processes, Event(), _progress, also=troubles.look)


@contextmanager
def _ending_well() -> Iterator[None]:
    """Turn signals and failures into an orderly end: all processes stopped, one sentence, an exit code."""
    # A shell has its background jobs ignore SIGINT; who sends it to us all the same means it. nohup means SIGHUP too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except StackError as error:
        _progress(str(error))
        raise typer.Exit(1) from None


def _without_stores() -> dict[str, str]:
    """The environment without the operator's databases, which a demonstration must not touch."""
    return {name: value for name, value in os.environ.items() if name not in {"REDIS_URL", "DATABASE_URL"}}


def _show_logs(stack: Stack) -> None:
    for process in (stack.bridge, stack.memory, stack.letta):
        _progress(f"\nThe end of {process.name}'s log:\n{process.log_tail(30)}")


def _progress(line: str) -> None:
    typer.echo(line, err=True)


def main() -> None:
    app()
