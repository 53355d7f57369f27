"""What a user heard of a reply, from what the program that plays it says."""

from __future__ import annotations

from collections.abc import Sequence

from letta_bridge.request_queue.interrupts import Heard


def heard_of(heard: Heard | None, sentences: Sequence[tuple[int, str]], *, void_until: int = -1) -> str | None:
    """The text that the user heard, never more than was published; None if that is not known.

    Args:
        heard: what the program says.
        sentences: ``seq`` and ``text`` of the sentences that were published, in order.
        void_until: ``seq`` of the last sentence of void attempts, whose characters are none of these; -1 without any.
    """
    if heard is None:
        return None
    published = "".join(text for _, text in sentences)
    if heard.text is not None:
        return _common_beginning(published, heard.text)
    said, left = [], heard.characters if heard.seq is None or heard.seq >= void_until else 0
    for seq, text in sentences:
        if heard.seq is not None and seq <= heard.seq:
            said.append(text)
        else:
            said.append(text[:left])
            break
    return "".join(said).rstrip()


def _common_beginning(published: str, heard: str) -> str:
    """The beginning of what was published that was heard; blanks count as equal.

    No other word is taken over: a program's text must not become the agent's.
    """
    at, wanted = 0, "".join(heard.split())
    for place, character in enumerate(published, 1):
        if character.isspace():
            continue
        if at == len(wanted) or character != wanted[at]:
            break
        at += 1
        end = place
    return published[:end] if at else ""
