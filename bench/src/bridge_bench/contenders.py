"""The contenders: the bridge, the baselines and the peers, each configured for speed as documented."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bridge_bench.environments import PEERS, python_of

Kind = Literal["bridge", "floor", "peer"]

SOURCES: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Contender:
    """One way of working off the tasks.

    Attributes:
        name: in tables.
        kind: what it is.
        command: arguments for its interpreter; ``{concurrency}`` is filled in. Empty for the bridge, which is started
            as local_stack does it.
        producer: module that puts tasks where this worker looks for them.
        folder: below peers/; empty where it runs in the workspace's own environment.
        packages: whose versions the report names.
        share: of the tasks the others get; the slow ones would take minutes.
        tasks_at_once: the most it can hold; thread pools end here.
        order: whether it keeps the order of a user's tasks.
        survives: what becomes of a killed worker's tasks, in a few words.
    """

    name: str
    kind: Kind
    command: tuple[str, ...] = ()
    producer: str = "bridge_bench.worker_side.plain_list"
    folder: str = ""
    packages: tuple[str, ...] = ()
    share: float = 1.0
    tasks_at_once: int = 100_000
    order: bool = False
    survives: str = "no"

    @property
    def python(self) -> Path:
        """Its interpreter, installed if missing. Raises MissingPeer."""
        return python_of(self.folder) if self.folder else Path(sys.executable)

    @property
    def cwd(self) -> Path:
        """The directory of its modules."""
        return PEERS / self.folder if self.folder else SOURCES


def _script(name: str, *arguments: str) -> tuple[str, ...]:
    """A console script of the peer's environment, run by its interpreter, because scripts contain absolute paths."""
    return (f".venv/bin/{name}", *arguments)


BRIDGE: Final = Contender("letta-bridge", "bridge", order=True, survives="yes, within the lease (30 s)")

BASELINES: Final = (
    Contender("raw sockets", "floor", ("-m", "bridge_bench.baselines.sockets")),
    Contender("redis-py + aiohttp by hand", "floor", ("-m", "bridge_bench.baselines.by_hand")),
)

RELAY: Final = Contender("relay by hand", "floor", ("-m", "bridge_bench.baselines.relay"))
"""Of streams."""

PEERS_BY_NAME: Final = {
    peer.name: peer
    for peer in (
        Contender(
            "dramatiq",
            "peer",
            _script("dramatiq", "peer", "--processes", "1", "--threads", "{concurrency}"),
            "peer",
            "dramatiq",
            ("dramatiq",),
            tasks_at_once=1000,
            survives="60 s, by chance",
        ),
        *(
            Contender(
                f"taskiq {kind}",
                "peer",
                _script("taskiq", "worker", f"{kind}:broker", "--workers", "1", "--max-async-tasks", "{concurrency}",
                        "--no-parse", "--log-level", "WARNING", *prefetch),
                kind,
                "taskiq",
                ("taskiq", "taskiq-redis"),
                survives=survives,
            )
            for kind, survives, prefetch in (
                ("stream", "600 s", ("--max-prefetch", "{concurrency}")),
                ("list", "no", ("--max-prefetch", "{concurrency}")),
            )
        ),
        Contender("SAQ", "peer", ("-m", "peer"), "peer", "saq", ("saq",), survives="aborted by its sweep"),
        Contender("arq", "peer", ("-m", "peer"), "peer", "arq", ("arq",), share=0.5, survives="310 s"),
        Contender("streaq", "peer", _script("streaq", "run", "peer:worker"), "peer", "streaq", ("streaq",), share=0.5,
                survives="60 s"),
        *(
            Contender(
                f"FastStream {kind}",
                "peer",
                _script("faststream", "run", f"{kind}:app", "--workers", "1", "--log-level", "error"),
                kind,
                "faststream",
                ("faststream",),
                survives=survives,
            )
            for kind, survives in (("stream", "pending for ever"), ("list", "no"))
        ),
        Contender(
            "Celery threads",
            "peer",
            _script("celery", "-A", "peer", "worker", "--pool", "threads", "--concurrency", "{concurrency}",
                    "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"),
            "peer",
            "celery",
            ("celery", "kombu"),
            share=0.3,
            tasks_at_once=1000,
            survives="3600 s",
        ),
        Contender(
            "RQ SimpleWorker",
            "peer",
            _script("rq", "worker", "--worker-class", "rq.SimpleWorker", "--quiet", "--path", "."),
            "peer",
            "rq",
            ("rq",),
            share=0.1,
            tasks_at_once=1,
            survives="registry",
        ),
    )
}  # fmt: skip
