"""Make what the comparison needs, and run it.

    python bench/vectors/measure.py [--points 100000] [--dimensions 768] [--queries 100]

langchain-postgres wants an older pgvector than the one that is used by hand, so each has an environment of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from local_stack.programs import CHECKOUT, environment

_HERE: Final = Path(__file__).parent
_UV: Final = CHECKOUT / ".tools" / "bin" / "uv"


def main() -> int:
    """The exit status of the comparison."""
    langchain, by_hand = _made("langchain"), _made("pgvector")
    packages = next(by_hand.glob("lib/python*/site-packages"))
    words = [sys.executable, str(_HERE / "comparison.py"), "--langchain", str(langchain / "bin" / "python")]
    # Behind the checkout's own packages on the path, so that it adds pgvector and nothing else.
    variables = environment(PYTHONPATH=str(packages))
    return subprocess.run([*words, *sys.argv[1:]], env=variables, check=False).returncode  # noqa: S603 - our own program


def _made(name: str) -> Path:
    """The environment of ``<name>.lock``."""
    folder = _HERE / ".venv" / name
    if not (folder / "made").exists():
        _run("venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
        _run("pip", "sync", "--quiet", "--require-hashes", str(_HERE / f"{name}.lock"), "--python", str(folder))
        (folder / "made").touch()
    return folder


def _run(*arguments: str) -> None:
    subprocess.run([str(_UV), *arguments], check=True, env=environment())  # noqa: S603 - the project's own uv


if __name__ == "__main__":
    sys.exit(main())
