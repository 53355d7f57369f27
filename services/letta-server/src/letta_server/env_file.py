"""The .env file: NAME=value lines, for variables that the environment does not set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from letta_server.errors import SettingsRefused

_LINE: Final = re.compile(
    r"""\s*(?:export\s+)?(?P<name>[A-Za-z_]\w*)\s*=\s*
    (?:'(?P<single>[^']*)'|"(?P<double>[^"]*)"|(?P<bare>.*?))\s*(?:(?<=\s)\#.*)?""",
    re.VERBOSE,
)


def read(path: Path) -> dict[str, str]:
    """Return the file's settings; nothing is expanded or escaped, so a password is written as it is.

    Raises:
        SettingsRefused: the file cannot be read, or a line is not NAME=value.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise SettingsRefused(f"The environment file {path} cannot be read as UTF-8 text.") from None
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise SettingsRefused(f"Line {number} of {path} is not NAME=value.")
        found[match["name"]] = next(value for value in match.group("single", "double", "bare") if value is not None)
    return found
