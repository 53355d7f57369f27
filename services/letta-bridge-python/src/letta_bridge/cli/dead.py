"""``letta-bridge dead list|show|retry|drop``."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Annotated, Any, Final

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, ask_redis, fail, progress_told, settings_or_exit
from letta_bridge.cli.output import cut, moment, plain, print_json, print_table
from letta_bridge.former_codes import present_code
from letta_bridge.request_queue.admin import DeadLetter, QueueAdmin
from letta_bridge.settings import BridgeSettings
from shared_utils.redis.connection import RedisClient
from shared_utils.text import counted

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Go through the dead letters: tasks that could not be processed.",
)

_COLUMNS: Final = ("ID", "TIME", "CODE", "TRIES", "USER", "TASK", "BYTES", "WHY")
_WHY_LENGTH: Final = 100
_SHORTEST_ID: Final = 4
_MAX_IDS: Final = 5
"""Ids listed in an error message at most."""

CodeOption = Annotated[
    str | None,
    typer.Option(
        help="Only letters with this code, such as too_many_deliveries.",
        callback=lambda code: code and present_code(code),
    ),
]
IdsArgument = Annotated[list[str] | None, typer.Argument(help="Ids as 'dead list' shows them, or their beginnings.")]
AllOption = Annotated[bool, typer.Option("--all", help="All letters, or all with --code.")]


@app.command(name="list")
def list_letters(
    limit: Annotated[int, typer.Option(help="Maximum number of letters.", min=1)] = 20,
    code: CodeOption = None,
    user: Annotated[str | None, typer.Option(help="Only letters of this user.")] = None,
    group: Annotated[bool, typer.Option("--group", help="Only count them, by code.")] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List dead letters, newest first. An id stays valid while other letters arrive or go."""
    settings = settings_or_exit(config)

    counts: Counter[str] = Counter()

    async def read(client: RedisClient) -> tuple[list[DeadLetter], int]:
        admin = QueueAdmin(client, settings.queue)
        found: list[DeadLetter] = []
        async for letter in admin.dead():
            if code in {None, letter.code} and user in {None, letter.about.get("user_id")}:
                counts[letter.code] += 1
                found += [] if group else [letter]
                if len(found) == limit:
                    break
        return found, await admin.dead_count()

    letters, total = ask_redis(settings, read)
    if group:
        if as_json:
            print_json({"total": total, "by_code": dict(counts.most_common())})
            return
        print_table(("CODE", "LETTERS"), counts.most_common(), numbers=("LETTERS",))
        typer.echo(f"{counts.total()} of {total} dead letters")
        return
    if as_json:
        print_json({"total": total, "letters": [_described(letter) for letter in letters]})
        return
    if letters:
        print_table(_COLUMNS, [_row(letter) for letter in letters], numbers=("TRIES", "BYTES"))
    typer.echo(f"{len(letters)} of {total} dead letters")


@app.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="The letter's id, or its beginning.")],
    raw: Annotated[bool, typer.Option("--raw", help="Write only the payload, byte for byte.")] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show a dead letter: its reason, and the task as it was received."""
    settings = settings_or_exit(config)

    async def read(client: RedisClient) -> tuple[DeadLetter, bytes | None]:
        admin = QueueAdmin(client, settings.queue)
        letter = await _one(admin, letter_id)
        return letter, await admin.payload(letter)

    letter, payload = ask_redis(settings, read)
    if payload is None:
        fail(f"the letter {letter.id} has just been removed", Exit.FAILED)
    if raw:
        sys.stdout.buffer.write(payload)
        return
    text = payload.decode(errors="replace")
    if as_json:
        print_json({**_described(letter), "payload": text})
        return
    rows = [("id", letter.id), ("time", moment(letter.about.get("time")))]
    rows += [(name, str(value)) for name, value in letter.about.items() if name != "time"]
    for name, value in rows:
        typer.echo(f"{name:<10} {plain(value)}")
    typer.echo(f"\n{plain(text)}")


@app.command()
def retry(
    ids: IdsArgument = None,
    every: AllOption = False,
    code: CodeOption = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Requeue the tasks of dead letters, oldest first; each letter is removed in the same step.

    A task keeps its idempotency key, so Letta does not receive a message twice. Letters with records that this release
    cannot read stay, and the exit code is 1.
    """
    _remove(ids, every=every, code=code, retry=True, as_json=as_json, settings=settings_or_exit(config))


@app.command()
def drop(
    ids: IdsArgument = None,
    every: AllOption = False,
    code: CodeOption = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Remove dead letters permanently, without confirmation. 'dead show --raw' saves a copy first."""
    _remove(ids, every=every, code=code, retry=False, as_json=as_json, settings=settings_or_exit(config))


def _remove(
    ids: list[str] | None, *, every: bool, code: str | None, retry: bool, as_json: bool, settings: BridgeSettings
) -> None:
    _check_choice(ids, every=every, code=code)
    chosen: list[DeadLetter] = []
    removed: list[DeadLetter] = []
    did, key = ("put back into the queue", "retried") if retry else ("dropped", "dropped")

    async def remove(client: RedisClient) -> None:
        admin = QueueAdmin(client, settings.queue)
        wanted = {(await _one(admin, letter_id)).digest for letter_id in ids or ()}

        def choose(letter: DeadLetter) -> bool:
            fits = letter.digest in wanted if ids else code in {None, letter.code}
            if fits:
                chosen.append(letter)
            return fits

        async for letter in admin.sweep(choose, retry=retry):
            removed.append(letter)  # noqa: PERF401  # an interruption tells how far it came

    def as_record() -> dict[str, list[str]]:
        return {key: [letter.id for letter in removed]}

    with progress_told(
        lambda: (
            f"{counted(len(removed), 'letter')} {did}, and perhaps one more; the others are still there: repeat the "
            "command to go on"
        ),
        as_record if as_json else None,
    ):
        ask_redis(settings, remove)
    gone = {letter.digest for letter in removed}
    left = [letter.id for letter in chosen if letter.digest not in gone]
    if as_json:
        print_json({**as_record(), "left": left})
    else:
        typer.echo(f"{counted(len(removed), 'letter')} {did}")
    if left:
        fail(
            f"{counted(len(left), 'letter')} left ({', '.join(left[:_MAX_IDS])}): another command removed it, or "
            "another release wrote it; see 'letta-bridge dead show'",
            Exit.FAILED,
        )


def _check_choice(ids: list[str] | None, *, every: bool, code: str | None) -> None:
    if bool(ids) == every:
        fail("name letters by their ids, or use --all (with or without --code)", Exit.USAGE)
    if ids and code:
        fail("--code needs --all and no ids", Exit.USAGE)


async def _one(admin: QueueAdmin, letter_id: str) -> DeadLetter:
    if len(letter_id) < _SHORTEST_ID:
        fail(f"'{letter_id}' is too short for an id; give at least {_SHORTEST_ID} characters", Exit.USAGE)
    found = await admin.find_dead(letter_id)
    if not found:
        fail(f"there is no dead letter '{letter_id}'; 'letta-bridge dead list' shows their ids", Exit.FAILED)
    if len({letter.digest for letter in found}) > 1:
        fail(f"{len(found)} letters begin with '{letter_id}'; give more of the id", Exit.USAGE)
    return found[0]


def _described(letter: DeadLetter) -> dict[str, Any]:
    return {"id": letter.id, "position": letter.position, **letter.about, "payload_bytes": letter.size}


def _row(letter: DeadLetter) -> tuple[object, ...]:
    about = letter.about
    return (
        letter.id,
        moment(about.get("time")),
        letter.code,
        about.get("attempts", "-"),
        about.get("user_id") or "-",
        about.get("task_id") or "-",
        letter.size,
        cut(str(about.get("reason", "")), _WHY_LENGTH),
    )
