"""The command line: `bridge-chaos chaos` and `bridge-chaos soak`, which `./run` calls."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from bridge_chaos import report
from bridge_chaos import soak as long_run
from bridge_chaos.campaign import Campaign, totals
from bridge_chaos.catalogue import catalogue, chosen
from bridge_chaos.matrix import page
from bridge_chaos.provenance import commit
from bridge_chaos.results import Plan, Results, ResultsFile, UnusableResults, read
from bridge_chaos.runner import Run
from bridge_chaos.scenario import Scenario, drawn_pairs, named_pair, scenario_of
from bridge_chaos.workspace import Workspace
from local_stack.programs import CHECKOUT

_PAGE = CHECKOUT / "docs" / "crash-matrix.md"
_RESULTS = CHECKOUT / "data" / "chaos"
"""Files of results; git ignores it."""
_SOAK_PAGE = CHECKOUT / "docs" / "soak.md"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Inject faults into the stack, and check the bridge's promises from outside. All services listen on "
    "127.0.0.1.",
)


@app.callback()
def _main() -> None:
    pass


@app.command()
def chaos(
    *,
    minutes: Annotated[
        float | None,
        typer.Option(help="Repeat all faults in random order for so many minutes; by default each runs once."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed for pairs, victims and times; a random one is chosen and printed by default."),
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="Only this fault, or all whose names begin so; repeatable.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Number of pairs of faults, drawn with the seed.", min=0)] = 0,
    pair: Annotated[list[str] | None, typer.Option(help="Run this pair, FIRST+SECOND@PHASE; repeatable.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the faults.")] = False,
    docs: Annotated[
        bool, typer.Option(help="Run the single faults and the pairs, and write docs/crash-matrix.md.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Directory for data and logs, kept afterwards.", metavar="DIR")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue the campaign of this results file: run what it lacks.", metavar="FILE"),
    ] = None,
    again: Annotated[bool, typer.Option(help="With --resume: also repeat runs that broke a promise.")] = False,
    page_of: Annotated[
        list[Path] | None,
        typer.Option(
            "--page",
            help="Only write docs/crash-matrix.md from this results file; repeatable.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Inject each fault once during a conversation, or pairs of faults (--pairs).

    Each run's result is written to a file as the run ends; --resume continues an interrupted campaign and repeats runs
    of other commits. Exit code 1 if a promise is broken outside the windows of its fault.
    """
    if list_:
        for name, one in catalogue().items():
            typer.echo(f"{name:<28} {one.what}")
        return
    if page_of:
        _write_page(_merged(page_of))
        return
    if resume is not None:
        if any((fault, pair, pairs, minutes is not None, seed is not None)):
            raise typer.BadParameter("--resume takes faults, pairs, minutes and seed from its file")
        file, known = resume, _read(resume)
    else:
        seed = secrets.randbelow(1_000_000) if seed is None else seed
        scenarios = _scenarios(fault or [], pairs, pair or [], seed, docs=docs)
        options = {"minutes": minutes, "pairs": pairs, "seed": seed}
        given = [*(f"--fault {name}" for name in fault or ()), *(f"--pair {name}" for name in pair or ())]
        given += [f"--{name} {value:g}" for name, value in options.items() if value]
        command = " ".join(["./run chaos", *given, *(["--docs"] if docs else [])])
        known = Results(Plan(command, seed, minutes, [scenario.name for scenario in scenarios]))
        file = (keep or _RESULTS) / f"results-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{seed}.jsonl"
    is_whole = _run_campaign(file, known, keep, again=again, is_new=resume is None)
    results = _read(file)
    if docs and is_whole:
        _write_page(results)
    broken = totals(results.runs)
    typer.echo(f"{len(results.runs)} runs, broken promises: {dict(broken) or 'none'}")
    raise typer.Exit(1 if broken else 0)


def _run_campaign(file: Path, known: Results, keep: Path | None, *, again: bool, is_new: bool) -> bool:
    """Run the scenarios without a result; returns False if interrupted."""
    plan, faults, current = known.plan, catalogue(), commit()
    scenarios = [found for name in plan.scenarios if (found := scenario_of(name, faults))]
    file.parent.mkdir(parents=True, exist_ok=True)
    with _results_file(file) as written, _workspace(keep) as workspace:
        if is_new:
            written.begin(plan)
        progress: report.Progress | None = None

        def tell(run: Run) -> None:
            written.add(run)
            typer.echo(report.line(run))
            if progress is not None:
                typer.echo(f"         {progress.after_run()}")

        def is_known(name: str, seed: int) -> bool:
            return known.has(name, seed, current, unbroken=again)

        campaign = Campaign(workspace, scenarios, plan.seed, tell, is_known)
        typer.echo(f"seed {plan.seed}, {campaign.planned} to run at commit {current}; results: {file}")
        if not is_new and plan.minutes is None:
            typer.echo(f"{len(scenarios) - campaign.planned} of the campaign are done already")
        written.skip({name: why for name, why in campaign.skipped.items() if name not in known.skipped})
        for name, why in campaign.skipped.items():
            typer.echo(f"skipped {name}: {why}")
        progress = report.Progress(campaign.planned, plan.minutes)
        try:
            campaign.run(plan.minutes)
        except KeyboardInterrupt:
            typer.echo(f"interrupted; the results are stored. Continue with: ./run chaos --resume {file}")
            return False
    return True


@contextmanager
def _results_file(path: Path) -> Iterator[ResultsFile]:
    try:
        with ResultsFile(path) as file:
            yield file
    except UnusableResults as error:
        raise typer.BadParameter(str(error)) from None


def _read(path: Path) -> Results:
    try:
        return read(path, catalogue())
    except UnusableResults as error:
        raise typer.BadParameter(str(error)) from None


def _merged(paths: list[Path]) -> Results:
    """The results of several files; the first one's plan names the command."""
    first, *others = [_read(path) for path in paths]
    for other in others:
        first.add_all(other)
    return first


def _write_page(results: Results) -> None:
    _PAGE.write_text(page(results, catalogue()), encoding="utf-8")
    typer.echo(f"wrote {_PAGE}")


def _scenarios(names: list[str], pairs: int, pair: list[str], seed: int, *, docs: bool) -> list[Scenario]:
    """The scenarios that the options select: with pairs alone, no single fault."""
    try:
        faults = chosen(names)
        named = [named_pair(text, catalogue()) for text in pair]
    except KeyError as error:
        raise typer.BadParameter(f"there is no fault {error.args[0]!r}; --list names them") from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    single = [] if (pairs or pair) and not docs else [Scenario(fault) for fault in faults]
    return [*single, *named, *drawn_pairs(faults, pairs, seed)]


@app.command()
def soak(
    *,
    minutes: Annotated[float, typer.Option(help="Minutes of load.")] = 60.0,
    seed: Annotated[
        int | None, typer.Option(help="Seed for faults and pauses; a random one is chosen and printed by default.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Messages per second.")] = 20.0,
    docs: Annotated[bool, typer.Option(help="Write docs/soak.md.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Directory for data and logs, kept afterwards.", metavar="DIR")
    ] = None,
) -> None:
    """Run a steady load with occasional faults; exit code 1 if a promise is broken or a resource has grown."""
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    typer.echo(f"seed {seed}")
    with _workspace(keep) as workspace:
        result = long_run.soak(workspace, minutes, seed, rate, typer.echo)
    for line in [*long_run.summary(result), *report.findings(result.verdict.findings)]:
        typer.echo(line)
    if docs:
        _SOAK_PAGE.write_text(report.soak_page(long_run.summary(result), minutes, seed), encoding="utf-8")
        typer.echo(f"wrote {_SOAK_PAGE}")
    raise typer.Exit(1 if result.problems() else 0)


@contextmanager
def _workspace(keep: Path | None) -> Iterator[Workspace]:
    with (
        tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder,
        Workspace(keep or Path(folder)) as workspace,
    ):
        yield workspace


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
