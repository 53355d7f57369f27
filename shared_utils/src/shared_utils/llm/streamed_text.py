"""The part of a model's message that is meant for its user, while the message is still being written."""

from __future__ import annotations

from shared_utils.llm.model_text import MOST_PASSES
from shared_utils.llm.text_marks import MARK_BEGINS
from shared_utils.llm.text_pass import TextPass


class StreamedText:
    """:func:`~shared_utils.llm.model_text.text_for_user` for one message that arrives in parts.

    What :meth:`add` and :meth:`end` return adds up to what ``text_for_user`` returns for the whole message. Text is
    held only while it may become a mark, is inside one, or is blank. A closing mark without an opening one can show
    that text which was returned before was thoughts: :attr:`voids` then grows, and what is returned from that call on,
    this call's text included, is the new beginning.
    """

    def __init__(self) -> None:
        self.voids = 0
        """How often what had been returned turned out to be thoughts."""
        self._passes = [TextPass() for _ in range(MOST_PASSES)]
        self._begun = False
        """Something but blanks has arrived."""
        self._idle = False
        """No pass holds anything."""
        self._went_by = ""
        """The last text that the passes did not look at."""
        self._unread = ""
        """Blanks behind it."""
        self._blanks = ""
        """Blanks that the passes let through, returned if something follows."""
        self._returned = False
        """Something was returned that still counts."""

    @property
    def voided(self) -> bool:
        """Whether something that was returned turned out to be thoughts."""
        return self.voids > 0

    def add(self, piece: str) -> str:
        """Take the next part of the message, and return the text that is now certain to be its user's."""
        if not self._idle or MARK_BEGINS.search(piece) is not None:
            return self._through(piece, complete=False)
        self._unread += piece
        words = self._unread.rstrip()
        if not words:
            return ""
        self._went_by = words
        self._unread = self._unread[len(words) :]
        words = self._blanks + words
        self._blanks = ""
        return words

    def end(self) -> str:
        """The rest of the text: nothing follows."""
        return self._through("", complete=True)

    def _through(self, text: str, *, complete: bool) -> str:
        if self._went_by:
            for each in self._passes:
                each.let_through(self._went_by)
            self._went_by = ""
        text = self._unread + text
        self._unread = ""
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        void = False
        for number, each in enumerate(self._passes):
            voids = each.voids
            if not text and not complete:
                break
            text = each.end(text) if complete else each.add(text)
            if each.voids != voids:
                void = True
                self._passes[number + 1 :] = [TextPass() for _ in self._passes[number + 1 :]]
        if void:
            self._blanks = ""
            self.voids += self._returned
            self._returned = False
        text = self._blanks + text
        words = text.rstrip()
        self._blanks = text[len(words) :]
        self._returned = self._returned or bool(words)
        self._idle = not complete and all(each.idle() for each in self._passes)
        return words
