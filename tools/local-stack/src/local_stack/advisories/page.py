"""Makes the parts of the security page that come from the list, in English and Chinese."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from local_stack.advisories.entries import Advisories, LettaEntry, Status, UnfixedEntry

_BEGIN: Final = "<!-- {}: ./run generate -->"
_END: Final = "<!-- end of {} -->"


@dataclass(frozen=True)
class _Words:
    summary: str
    verdicts: dict[Status, str]
    not_affected: str
    record: str
    default: str
    full: str
    tests: str
    packages: str
    no_packages: str
    unfixed: str
    colon: str
    comma: str


_ENGLISH: Final = _Words(
    summary="| | what | default settings | `LETTA_SERVER_FULL_API=true` |",
    verdicts={Status.NOT_AFFECTED: "not affected", Status.AFFECTED: "**affected**"},
    not_affected="not affected",
    record="Record",
    default="Default settings",
    full="With the whole API",
    tests="Shown by",
    packages="| package | advisories | why it stays | reach here |",
    no_packages="None at present: no locked package has an advisory of the list.",
    unfixed="no release without it",
    colon=": ",
    comma=", ",
)
_CHINESE: Final = _Words(
    summary="| | 内容 | 默认设置 | `LETTA_SERVER_FULL_API=true` |",
    verdicts={Status.NOT_AFFECTED: "不受影响", Status.AFFECTED: "**受影响**"},
    not_affected="不受影响",
    record="公开记录",
    default="默认设置",
    full="开放全部 API 时",
    tests="由以下测试证明",
    packages="| 软件包 | 公告 | 不能升级的原因 | 在此的影响范围 |",
    no_packages="目前没有：锁定的软件包都不带清单中的任何公告。",
    unfixed="尚无修复版本",
    colon="：",
    comma="、",
)


def with_entries(document: str, advisories: Advisories, *, chinese: bool = False) -> str:
    """The document with the present entries between their marks.

    Raises:
        ValueError: a mark is missing.
    """
    words = _CHINESE if chinese else _ENGLISH
    parts = {
        "letta": "\n".join(_letta(advisories.letta, words, chinese=chinese)),
        "packages": "\n".join(_packages(advisories.unfixed, words, chinese=chinese)),
    }
    for name, content in parts.items():
        before, begin, rest = document.partition(_BEGIN.format(name))
        _, end, after = rest.partition(_END.format(name))
        if not end:
            raise ValueError(f"The page has no marks of {name}.")
        document = f"{before}{begin}\n{content}\n{end}{after}"
    return document


def _letta(entries: Sequence[LettaEntry], words: _Words, *, chinese: bool) -> Iterator[str]:
    yield words.summary
    yield "|---|---|---|---|"
    for entry in entries:
        title = entry.title_zh if chinese else entry.title
        default = f"{words.not_affected}{words.colon}`{entry.justification}`"
        yield f"| [{entry.id}](#{entry.id.lower()}) | {title} | {default} | {words.verdicts[entry.full_api_status]} |"
    for entry in entries:
        yield from _details(entry, words, chinese=chinese)


def _details(entry: LettaEntry, words: _Words, *, chinese: bool) -> Iterator[str]:
    record = entry.record_zh if chinese else entry.record
    sources = words.comma.join(f"<{source}>" for source in entry.sources)
    names = words.comma.join((entry.id, *entry.aliases))
    yield from ("", f"### {entry.id}", "")
    yield f"- {words.record}{words.colon}{record} ({names}; {sources})"
    yield f"- {words.default}{words.colon}{entry.why_zh if chinese else entry.why}"
    yield f"- {words.full}{words.colon}{entry.full_api_zh if chinese else entry.full_api}"
    tests = dict.fromkeys((*entry.tests, *entry.full_api_tests))
    yield f"- {words.tests}{words.colon}{words.comma.join(f'`{test}`' for test in tests)}"


def _packages(entries: Sequence[UnfixedEntry], words: _Words, *, chinese: bool) -> Iterator[str]:
    if not entries:
        yield words.no_packages
        return
    yield words.packages
    yield "|---|---|---|---|"
    for entry in entries:
        fixed = entry.version or words.unfixed
        ids = f"[{words.comma.join(entry.ids)}]({entry.source})"
        reason, reach = (entry.reason_zh, entry.reach_zh) if chinese else (entry.reason, entry.reach)
        yield f"| {entry.package} ({fixed}) | {ids} | {reason} | {reach} |"
