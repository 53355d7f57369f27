"""``letta-bridge doctor``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, load_or_exit
from letta_bridge.cli.interruption import run_command
from letta_bridge.cli.output import plain, print_json
from letta_bridge.doctor import Finding, Level, examine
from letta_bridge.doctor.findings import warn
from letta_bridge.settings import BridgeSettings
from shared_utils.config.deprecations import sentences
from shared_utils.observability.logs import redact_text

_COLOURS: Final = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


def doctor(
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Also create a scratch agent on each Letta server and let it answer once; costs a few tokens.",
        ),
    ] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Check everything the bridge needs; one line per check, with the remedy. Exit code 1 if a check fails.

    It changes nothing permanently: it creates scratch keys, a scratch file and, with --deep, an agent, and deletes them
    again. WARN is a possible problem, not a failure.
    """
    loaded = load_or_exit(config)
    findings = [warn("settings", sentence, "use the new names") for _, _, sentence in sentences(loaded.deprecated)]
    if not as_json:
        for finding in findings:
            _print(finding)
    findings += run_command(_findings(loaded.settings, deep=deep, show=not as_json))
    failed = any(finding.level is Level.FAIL for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [_without_secrets(finding) for finding in findings]})
    raise typer.Exit(int(Exit.FAILED if failed else Exit.DONE))


async def _findings(settings: BridgeSettings, *, deep: bool, show: bool) -> list[Finding]:
    findings = []
    async for finding in examine(settings, deep=deep):
        findings.append(finding)
        if show:
            _print(finding)
    return findings


def _print(finding: Finding) -> None:
    level = typer.style(f"{finding.level:<4}", fg=_COLOURS[finding.level])
    text = f"{finding.says.rstrip('.')}; {finding.advice}" if finding.advice else finding.says
    typer.echo(f"{level}  {finding.subject:<18} {plain(redact_text(text))}")


def _without_secrets(finding: Finding) -> dict[str, str]:
    return {name: redact_text(str(value)) for name, value in asdict(finding).items()}
