"""``python -m bridge_bench``: the command line."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bridge_bench import machine, report, results
from bridge_bench.ceiling import ceiling
from bridge_bench.contenders import BASELINES, BRIDGE, PEERS_BY_NAME, Contender
from bridge_bench.errors import BenchError
from bridge_bench.figures import FIGURES, USUAL
from bridge_bench.harness import Harness
from bridge_bench.runs import Bench, Options
from bridge_bench.targets import targets
from local_stack.errors import StackError
from local_stack.programs import CHECKOUT
from shared_utils.config.settings import LogSettings
from shared_utils.observability import logs

_DOCS: Final = CHECKOUT / "docs"
_RESULTS: Final = CHECKOUT / "bench" / "results.json"
_PIPE_WIDTH: Final = 200
"""Columns where no terminal limits them."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def bench(
    *,
    tasks: Annotated[int, typer.Option(help="Measured tasks of a throughput round.", min=500)] = 6000,
    rounds: Annotated[int, typer.Option(help="Rounds; the output shows their medians.", min=1)] = 3,
    peers: Annotated[str, typer.Option(help="Comma-separated prefixes of peers' names, or all, or none.")] = "all",
    figure: Annotated[str, typer.Option(help=f"Comma-separated figures, or all: {', '.join(FIGURES)}.")] = ",".join(
        USUAL
    ),
    letta: Annotated[bool, typer.Option("--letta", help="The same as --figure letta: use a real Letta.")] = False,
    concurrency: Annotated[int, typer.Option(help="Maximum number of tasks in flight.", min=1)] = 64,
    users: Annotated[int, typer.Option(help="Number of users that send the tasks.", min=1)] = 500,
    patience: Annotated[float, typer.Option(help="Seconds to wait for the tasks of a killed worker.")] = 75.0,
    large: Annotated[
        bool,
        typer.Option("--large", help="Also measure a million waiting tasks, 100 000 users and 10 000 streams."),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the results.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a target is missed, and name it.")] = False,
    docs: Annotated[bool, typer.Option("--docs", help="Write the results into docs/performance.md.")] = False,
) -> None:
    """Compare the bridge with peers and baselines in interleaved rounds; print tables of medians."""
    logs.configure(LogSettings(level="warning", format="console"), "bench", stream=sys.stderr)
    figure = "letta" if letta else figure
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    try:
        names = list(FIGURES) if figure == "all" else [_known(name, FIGURES, "figure") for name in figure.split(",")]
        options = Options(tasks, rounds, concurrency, users, _subjects(peers), patience, large)
        measured = _measured(console, names, options)
    except (BenchError, StackError) as error:
        console.print(f"bench: {error}", style="red", highlight=False, markup=False)
        raise typer.Exit(1) from None
    if json_file:
        results.write(json_file, measured)
    if docs:
        everything = results.read(_RESULTS) | measured
        results.write(_RESULTS, everything)
        report.write_page(_DOCS, [module.FIGURE for module in FIGURES.values()], results.read(_RESULTS))
    judged = targets(results.rows_of(measured))
    report.print_targets(console, judged)
    if check and not all(target.met for target in judged):
        raise typer.Exit(1)


def _measured(console: Console, names: Sequence[str], options: Options) -> results.Results:
    before = machine.load()
    about: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": _command(sys.argv[1:]),
        "machine": machine.machine(),
        "load": before,
        "versions": machine.versions(options.contenders),
        "rounds": options.rounds,
    }
    if before > (os.cpu_count() or 1) / 2:
        console.print(f"The machine is not idle (load average {before:.1f}): only ratios are meaningful.")
    measured: results.Results = {}
    with (
        tempfile.TemporaryDirectory(prefix="bridge-bench-") as data,
        _progress(console) as progress,
        Harness(Path(data)) as harness,
    ):
        task = progress.add_task("starting")

        def step(what: str, who: str, round_: int) -> None:
            progress.update(task, description=f"{what}: {who}, round {round_ + 1}")

        for contender in options.contenders:
            progress.update(task, description=f"environment of {contender.name}")
            _ = contender.python
        run = Bench(harness, options, step)
        with harness.stub() as stub:
            turns, cpu = ceiling(stub)
        about["stub"] = f"{turns:,.0f} turns/s at {cpu:.3f} CPU seconds per 1 000"
        console.print(f"The stub Letta answers {about['stub']}.", highlight=False)
        for name in names:
            module = FIGURES[name]
            rows = module.run(run)
            measured[name] = {**about, "rows": rows}
            report.print_figure(console, module.FIGURE, rows)
    return measured


def _command(arguments: Sequence[str]) -> str:
    """The command without the options that do not affect the measurement."""
    words = iter(arguments)
    kept = []
    for word in words:
        if word == "--json":
            next(words, None)
        elif not word.startswith("--json="):
            kept.append(word)
    return " ".join(["./run bench", *kept])


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    )


def _subjects(peers: str) -> list[Contender]:
    wanted = [] if peers == "none" else list(PEERS_BY_NAME.values())
    if peers not in {"all", "none"}:
        beginnings = tuple(name.strip().lower() for name in peers.split(","))
        for beginning in beginnings:
            if not any(peer.name.lower().startswith(beginning) for peer in wanted):
                raise BenchError(f"There is no peer '{beginning}'; there are {', '.join(PEERS_BY_NAME)}.")
        wanted = [peer for peer in wanted if peer.name.lower().startswith(beginnings)]
    return [BRIDGE, *BASELINES, *wanted]


def _known(name: str, names: Sequence[str] | dict[str, Any], what: str) -> str:
    if name not in names:
        raise BenchError(f"There is no {what} '{name}'; there are {', '.join(names)}.")
    return name


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
