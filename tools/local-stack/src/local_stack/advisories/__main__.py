"""`python -m local_stack.advisories SCANNER...`: the audit, with pip-audit's command. Run by `./run audit`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from local_stack.advisories.audit import problems
from local_stack.errors import ScanFailed


def main(scanner: list[str]) -> int:
    """Print what differs. Returns 1 if something does, or if there was no answer."""
    try:
        found = list(problems(Path.cwd(), scanner))
    except (ScanFailed, OSError) as error:
        typer.echo(error, err=True)
        return 1
    for problem in found:
        typer.echo(problem, err=True)
    if not found:
        typer.echo("The OSV database has no advisory for the locks that advisories.toml does not name as known.")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
