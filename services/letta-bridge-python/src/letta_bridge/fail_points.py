"""Named steps of a turn at which a bridge can be told to kill or stop itself: for proving that nothing is lost there.

``CHAOS_FAIL_POINT=<step>:<signal>:<n>`` sends this process the signal when a turn reaches the step for the n-th
time, once: ``answered:KILL:3``. Without the variable :data:`reach` does nothing.

==========  ====================================================================================================
taken       Redis has handed the turn to this bridge, which has done nothing with it yet
routed      it is decided who answers
looked_up   the user's agent is known
sending     the lease was looked at, and nothing is written to Letta's connection yet
sent        the turn was written to Letta's connection a moment ago, and Letta is at work
speaking    events of a streamed reply are about to be written
spoken      Redis has them, and this bridge has not heard so
noted       Redis has an interrupt from the control list, and its turn goes on
answered    Letta's answer is here, and Redis does not know
settled     Redis has the outcome, and this bridge has not heard so
==========  ====================================================================================================

``backup`` and ``restore`` have steps of their own, ``ARCHIVE_STEPS``; a chaos campaign, which breaks turns, leaves them
alone.

===============  ===============================================================================================
state_saved      the tables, or the session file, are written; no agent is
agent_saved      an agent's snapshot is written
backup_listed    every file is written, and the manifest is not
agent_written    Letta has made an agent, without passages and without the tags of the bridge
agent_archive    an archive of the agent is filled
agent_complete   the agent has everything but its tags
agent_restored   the agent has its tags
agents_restored  every agent is restored; the state is not
state_restored   the state is committed; the command has not said so
===============  ===============================================================================================
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from typing import Final

VARIABLE: Final = "CHAOS_FAIL_POINT"
STEPS: Final = (
    *("taken", "routed", "looked_up", "sending", "sent"),
    *("speaking", "spoken", "noted"),
    *("answered", "settled"),
)
ARCHIVE_STEPS: Final = (
    "state_saved",
    "agent_saved",
    "backup_listed",
    "agent_written",
    "agent_archive",
    "agent_complete",
    "agent_restored",
    "agents_restored",
    "state_restored",
)
_FORM: Final = re.compile(rf"(?P<step>{'|'.join(STEPS + ARCHIVE_STEPS)}):(?P<signal>[A-Z0-9]+):(?P<n>[1-9]\d*)")
_ON_ITS_WAY: Final = 0.05
"""Seconds after which a started request is certainly sent."""


def armed(text: str | None) -> Callable[..., None]:
    """What to call at each step, for the variable's text.

    Returns:
        ``reach(step, times=1)``: ``times`` turns reach the step.

    Raises:
        ValueError: it does not read ``<step>:<signal>:<n>``.
    """
    if not text:
        return _unarmed
    found = _FORM.fullmatch(text)
    if found is None or f"SIG{found['signal']}" not in signal.Signals.__members__:
        raise ValueError(f"{VARIABLE} must be <step>:<signal>:<n>, with one of the steps {', '.join(STEPS)}")
    step, left = found["step"], int(found["n"])
    number = signal.Signals[f"SIG{found['signal']}"]

    def reach(reached: str, times: int = 1) -> None:
        nonlocal left
        if reached != step or left <= 0:
            return
        left -= times
        if left > 0:
            return
        if step == "sent":
            asyncio.get_running_loop().call_later(_ON_ITS_WAY, os.kill, os.getpid(), number)
        else:
            os.kill(os.getpid(), number)

    return reach


def _unarmed(step: str, times: int = 1) -> None:
    del step, times


reach = armed(os.environ.get(VARIABLE))
"""Called at each step."""
