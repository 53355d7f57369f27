"""What a voice says of the pieces of a reply."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_utils.speech import SentenceSplitter, SpeechText


@pytest.mark.parametrize(
    ("piece", "said"),
    [
        # emphasis
        ("**注意！**", "注意！"),
        ("It is *very* easy, and ***so* nice**.", "It is very easy, and so nice."),
        ("这是*重点*内容。", "这是重点内容。"),
        ("_Hello_ and __me__, but snake_case_name.", "Hello and me, but snake_case_name."),
        ("~~old~~ new", "old new"),
        ("2 * 3 is 6, and 2*3 too; 2**3 is 8", "2 * 3 is 6, and 2*3 too; 2**3 is 8"),
        ("**begun here and", "begun here and"),
        ("ended here.**", "ended here."),
        (r"\*not emphasis\*", "*not emphasis*"),
        # lines
        ("# 标题\n", "标题"),
        ("### A title ###\n", "A title"),
        ("#1 is a number", "#1 is a number"),
        ("- 苹果\n", "苹果"),
        ("  * [x] done\n", "done"),
        ("2. Tap Start.", "Tap Start."),
        ("1.打开软件\n", "打开软件"),
        ("3.5 is a number", "3.5 is a number"),
        ("> > - Be yourself.\n", "Be yourself."),
        ("---\n", ""),
        ("| 名称 | 价格 |\n", "名称，价格"),
        ("| a | *b* | |\n", "a, b"),
        ("|---|:--:|\n", ""),
        ("[a]: https://example.org/x\n", ""),
        # links and addresses
        ("请看[文档](https://example.com/a.html)。", "请看文档。"),
        ('See [the page](https://example.com/a_(b) "title") now.', "See the page now."),
        ("![a cat](cat.png) and [![logo](a.png)](https://example.com)", "a cat and logo"),
        ("[text][ref] and a note[^1].", "text and a note."),
        ("请访问https://example.com/a.b?x=1&y=2。", "请访问链接。"),
        ("See https://example.com/index.html?a=1.", "See link."),
        ("これは https://example.com です。", "これは リンク です。"),
        ("<https://example.com>, or ada.b@example.com", "link, or ada.b@example.com"),
        ("官网是www.example.com，谢谢！", "官网是www.example.com，谢谢！"),
        ("[1, 2] and (3)", "[1, 2] and (3)"),
        # code
        ("Use `os.path.join` here.", "Use os.path.join here."),
        ("Use ``a`b`` and `*x*`.", "Use a`b and *x*."),
        ("a ` alone", "a alone"),
        ("```python\nprint(1)\n```\n", ""),
        ("  ~~~\nx\n~~~", ""),
        ("a\n```\nx\n```\nb", "a b"),
        # HTML
        ("a<br>b <b>bold</b> <!-- no --> &amp; 1 < 2", "a b bold & 1 < 2"),
        ("a < b and b > c", "a < b and b > c"),
        # nothing to say
        ("👍", ""),
        ("……！", ""),
        ("**", ""),
        ("\n\n", ""),
        ("", ""),
        ("1️⃣ 打开 ❤️", "打开"),
        ("今天天气真好😊我们去公园吧🌳", "今天天气真好我们去公园吧"),
        ("寒いね(´・ω・`)（スター・ウォーズ）", "寒いね（スター・ウォーズ）"),
        ("42", "42"),
    ],
)
def test_markdown_is_removed(piece: str, said: str) -> None:
    assert SpeechText().of(piece) == said


@pytest.mark.parametrize(
    ("piece", "said"), [(" **注意！**\n", "**注意！**"), ("```py\nx\n```", "```py\nx\n```"), ("👍", ""), ("—", "")]
)
def test_markdown_is_kept_for_a_voice_that_knows_it(piece: str, said: str) -> None:
    assert SpeechText("keep").of(piece) == said


def test_a_line_that_goes_on_in_another_piece_has_no_marks_of_lines() -> None:
    speech = SpeechText()
    assert [speech.of(piece) for piece in ("The answer is ", "3. Or so.\n", "3. Or so.")] == [
        "The answer is",
        "3. Or so.",
        "Or so.",
    ]


def test_a_code_block_in_several_pieces_is_not_said() -> None:
    speech = SpeechText()
    pieces = ["Look:\n", "```py\nx = 1\n", "y = 2\n# ``` no\n", "z", " = 3\n```\n", "Done.\n", "```\nx"]
    assert [speech.of(piece) for piece in pieces] == ["Look:", "", "", "", "", "Done.", ""]


@given(text=st.text("ab好。*_`~[]()<>|#-\\!\n 1.😀&;:/"))
def test_what_is_said_is_one_line_with_something_to_say(text: str) -> None:
    splitter, speech = SentenceSplitter(max_characters=20), SpeechText()
    for piece in splitter.add(text) + splitter.end():
        said = speech.of(piece)
        assert "\n" not in said
        assert said == said.strip()
        assert not said or any(map(str.isalnum, said))


@pytest.mark.parametrize("piece", ["[", "![", "*", "`", "<", "<a ", "|", "_a", "[a](", "~~", "\\", "<!--", "(", "&"])
def test_a_hostile_piece_is_read_in_bounded_time(piece: str) -> None:
    began = time.process_time()
    SpeechText().of(piece * (4_000 // len(piece)))
    assert time.process_time() - began < 5
