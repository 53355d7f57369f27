"""What a voice says of a reply: the words without Markdown, code, addresses and emoji."""

from __future__ import annotations

import html
import re
from typing import Final, Literal

from shared_utils.speech import code_fences
from shared_utils.speech.characters import CJK, EMOJI, FACE, KANA

_TICKS: Final = re.compile(r"(?P<ticks>`+)(?P<code>.*?[^`])?(?P=ticks)(?!`)|`+", re.DOTALL)
_LINE_MARKS: Final = re.compile(
    r"[ \t]*(?:>[ \t]*)*(?:#{1,6}(?:[ \t]+|\Z)|(?:[-*+•]|\d{1,3}[.)])[ \t]+(?:\[[ xX]\][ \t]+)?"
    rf"|\d{{1,2}}[.)](?={CJK.pattern}))?"
)
"""Quotation, heading or list mark at the beginning of a line."""
_REFERENCE: Final = re.compile(r"[ \t]*\[[^\]\n]+\]:[ \t]*\S+.*")
_TABLE_ROW: Final = re.compile(r"[ \t]*\|(?P<cells>.*?)\|?[ \t]*\Z")
_LINK: Final = re.compile(
    r"!?\[(?P<text>[^\[\]\n]*)\](?:\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*(?:\s+\"[^\"\n]*\")?\)|\[[^\[\]\n]*\])"
)
_FOOTNOTE: Final = re.compile(r"\[\^[^\]\n]{1,40}\]")
_ADDRESS: Final = re.compile(
    r"<?\b(?:https?|ftp)://[\w\-.~:/?#\[\]@!$&'()*+,;=%]*[\w\-~/#@$&*+=%](?<![。，])>?", re.ASCII
)
_TAG: Final = re.compile(r"<!--.*?-->|</?[A-Za-z][^<>]{0,500}>", re.DOTALL)
_BREAK: Final = re.compile(r"<br\s*/?>", re.IGNORECASE)
_ESCAPE: Final = re.compile(r"\\([!-/:-@\[-`{-~])")
_STARS: Final = re.compile(
    r"(?<!\d)\*{2,}|\*{2,}(?!\d)|(?<![A-Za-z0-9*])\*(?![\s*])|(?<![\s*])\*(?![A-Za-z0-9*])|(?<=[^\x00-\x7f])\*|\*(?=[^\x00-\x7f])"
)
_LOW_LINES: Final = re.compile(r"(?<![A-Za-z0-9_])_+(?=\S)|(?<=\S)_+(?![A-Za-z0-9_])")
_STRUCK: Final = re.compile(r"~~(?=\S)|(?<=\S)~~(?=\s|\Z)")
_FACE: Final = re.compile(rf"(?=[^)）]*[ωд´`^◕｡≧≦▽∀⌒ヮ°￣︶•♥]){FACE}")
_EMOJI: Final = re.compile(rf"[0-9#*]\ufe0f?\u20e3|{EMOJI}+")
_MARKS: Final = re.compile(r"[^\w\s.,!?;:'\"，。！？；：、…“”‘’—-]|_")
"""A piece without one of these has no mark to remove, unless its first line begins with one."""


class SpeechText:
    """What to say of each piece of a reply, in their order.

    With ``"remove"``: code blocks are left out (inline code is said); links and images are said by their text, bare
    addresses as "link", 链接 or リンク; the cells of a table's row with pauses between them; emphasis, headings, marks
    of lists and quotations, HTML tags and emoji are left out. With ``"keep"``, for a voice that knows Markdown, each
    piece is as it was written, without surrounding blanks.
    """

    def __init__(self, markdown: Literal["remove", "keep"] = "remove") -> None:
        self._keep = markdown == "keep"
        self._line_start = True
        self._fence: re.Pattern[str] | None = None

    def of(self, piece: str) -> str:
        """What to say of the next piece, on one line; empty where it has no letter and no digit to say."""
        if self._keep:
            said = piece.strip()
        else:
            line_start, self._line_start = self._line_start, piece.endswith("\n")
            text = self._without_code(piece, line_start)
            said = " ".join([part for part in (_line(line, text) for line in _lines(text, line_start)) if part])
        return said if any(map(str.isalnum, said)) else ""

    def _without_code(self, piece: str, line_start: bool) -> str:
        """The piece without its code blocks; the state says whether the next piece begins in one."""
        kept = []
        at = 0
        while True:
            if self._fence is not None:
                closed = self._fence.search(piece, at)
                if closed is None:
                    break
                self._fence = None
                at = closed.end()
            opened = _opening(piece, at, line_start or at > 0)
            if opened is None:
                kept.append(piece[at:])
                break
            kept.append(piece[at : opened.start()])
            self._fence = code_fences.closing(opened["run"])
            at = piece.find("\n", opened.end()) + 1 or len(piece)
        return "".join(kept)


def _opening(piece: str, at: int, line_start: bool) -> re.Match[str] | None:
    """The next line of the piece that opens a code block."""
    if "```" not in piece and "~~~" not in piece:
        return None
    if not line_start:
        at = piece.find("\n", at) + 1 or len(piece)
    while at < len(piece):
        if (found := code_fences.OPENING.match(piece, at)) is not None:
            return found
        at = piece.find("\n", at) + 1 or len(piece)
    return None


def _lines(text: str, line_start: bool) -> list[tuple[str, bool]]:
    """The lines, and whether each begins at its beginning."""
    return [(line, line_start or number > 0) for number, line in enumerate(text.split("\n")) if line.strip()]


def _line(line: tuple[str, bool], whole: str) -> str:
    """What to say of one line."""
    text, from_start = line
    if from_start:
        if _REFERENCE.fullmatch(text):
            return ""
        if (row := _TABLE_ROW.match(text)) is not None:
            pause = "，" if CJK.search(text) else ", "
            cells = [_inline(cell, whole) for cell in re.split(r"(?<!\\)\|", row["cells"])]
            return pause.join([cell for cell in cells if any(map(str.isalnum, cell))])
        mark = _LINE_MARKS.match(text)
        if mark is not None:
            text = text[mark.end() :]
            text = text.rstrip("# \t\r") if "#" in mark[0] else text
    return _inline(text, whole)


def _inline(text: str, whole: str) -> str:
    """The text without marks inside it; inline code stays as it is."""
    if _MARKS.search(text) is None:
        return " ".join(text.split())
    text = _FACE.sub("", text)
    said = []
    at = 0
    for span in _TICKS.finditer(text):
        said += [_words(text[at : span.start()], whole), span["code"] or ""]
        at = span.end()
    said.append(_words(text[at:], whole))
    return " ".join("".join(said).split())


def _words(text: str, whole: str) -> str:
    for _ in range(2):  # a linked image is a link within a link
        text = _LINK.sub(lambda link: link["text"], text)
    text = _FOOTNOTE.sub("", text)
    text = _ADDRESS.sub(_link_word(whole), text)
    text = _TAG.sub("", _BREAK.sub(" ", text))
    escaped = _ESCAPE.split(text)
    escaped[::2] = [_LOW_LINES.sub("", _STARS.sub("", _STRUCK.sub("", part))) for part in escaped[::2]]
    return _EMOJI.sub("", html.unescape("".join(escaped)))


def _link_word(text: str) -> str:
    if KANA.search(text):
        return "リンク"
    return "链接" if CJK.search(text) else "link"
