from __future__ import annotations

import pytest

from scripted_model import facts


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("My name is Ada", ["The user's name is Ada."]),
        ("Hi, my name is Ada and I like oolong tea.", ["The user's name is Ada.", "The user likes oolong tea."]),
        ("I like tea, coffee and jazz!", ["The user likes tea, coffee and jazz."]),
        ("I don't like rain", ["The user dislikes rain."]),
        ("remember that my cat is called Mochi", ["The user's cat is called Mochi."]),
        ("My cat's name is Mochi", ["The user's cat is called Mochi."]),
        ("I have a dog named Rex", ["The user's dog is called Rex."]),
        ("My birthday is 3 May", ["The user's birthday is 3 May."]),
        ("I live in St. Gallen", ["The user lives in St. Gallen."]),
        ("Please remember: the door code is 1234", ["The user asked to remember: the door code is 1234"]),
        ("我叫小明", ["用户叫小明。"]),
        ("你好，我叫小明，我喜欢乌龙茶。", ["用户叫小明。", "用户喜欢乌龙茶。"]),
        ("我叫小明,我喜欢茶!", ["用户叫小明。", "用户喜欢茶。"]),
        ("我的名字是小明", ["用户叫小明。"]),
        ("我的猫叫年糕", ["用户的猫叫年糕。"]),
        ("我有一只猫叫年糕", ["用户的猫叫年糕。"]),
        ("我不喜欢下雨", ["用户不喜欢下雨。"]),
        ("我最喜欢的颜色是蓝色", ["用户的最喜欢的颜色是蓝色。"]),
        ("我住在杭州", ["用户住在杭州。"]),
        ("记住我的生日是五月三日", ["用户的生日是五月三日。"]),
        ("请记住：明天要开会", ["用户要记住：明天要开会"]),
    ],
)
def test_a_statement_becomes_lines_that_read_back_as_the_same_facts(text: str, lines: list[str]) -> None:
    stated = facts.stated_facts(text)

    assert [fact.line for fact in stated] == lines
    assert facts.stored_facts("\n".join(lines)) == stated


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "What is my name?",
        "我叫什么名字？",
        "我喜欢什么",
        "我的猫叫什么",
        "Do I like tea?",
        "我住在哪里",
        "你好",
        "",
    ],
)
def test_questions_and_small_talk_state_nothing(text: str) -> None:
    assert facts.stated_facts(text) == []


@pytest.mark.parametrize(
    ("text", "kinds", "subject"),
    [
        ("What is my name?", ("name",), ""),
        ("what's my name", ("name",), ""),
        ("Do you remember my name?", ("name",), ""),
        ("我叫什么名字？", ("name",), ""),
        ("你还记得我叫什么名字吗？", ("name",), ""),
        ("我叫什么?", ("name",), ""),
        ("我是谁", ("name",), ""),
        ("What do I like?", ("likes",), ""),
        ("我喜欢什么？", ("likes",), ""),
        ("What do I not like?", ("dislikes",), ""),
        ("我住在哪里？", ("home",), ""),
        ("What is my cat called?", ("called", "attribute"), "cat"),
        ("what is my cat's name?", ("called", "attribute"), "cat"),
        ("我的猫叫什么？", ("called", "attribute"), "猫"),
        ("我的猫叫什么名字呀？", ("called", "attribute"), "猫"),
        ("我的生日是什么时候？", ("called", "attribute"), "生日"),
        ("我最喜欢的颜色是什么？", ("called", "attribute"), "最喜欢的颜色"),
        ("what did I tell you about my cat?", (), "cat"),
        ("关于我的猫，我跟你说过什么？", (), "猫"),
        ("What do you know about me?", (), ""),
        ("你知道我什么？", (), ""),
    ],
)
def test_a_question_is_recognised_with_kind_and_subject(text: str, kinds: tuple[str, ...], subject: str) -> None:
    assert facts.asked(text) == facts.Asked(kinds, subject)


@pytest.mark.parametrize("text", ["hello", "My name is Ada", "How are you?", "你好吗？"])
def test_text_without_a_question_asks_nothing(text: str) -> None:
    assert facts.asked(text) is None


def test_a_new_name_replaces_the_old_one_and_likes_add_up() -> None:
    told = facts.stated_facts("My name is Ada. I like tea. My name is Bob. I like jazz. I like tea.")

    assert [fact.value for fact in facts.merged(told)] == ["tea", "Bob", "jazz"]


def test_question_in_one_language_finds_facts_in_the_other() -> None:
    question = facts.asked("What is my cat called?")
    assert question is not None

    found = facts.matching(question, facts.stated_facts("我叫小明。我的猫叫年糕。"))

    assert [fact.value for fact in found] == ["年糕"]


def test_note_of_an_earlier_turn_has_the_users_message_without_the_answer() -> None:
    note = "Answered elsewhere:\n- User: My name is Ada\n- Assistant: my name is Eve\n用户说：我喜欢茶\n助手：我叫小红"

    assert [fact.line for fact in facts.stated_facts(note)] == ["The user's name is Ada.", "用户喜欢茶。"]


def test_lines_of_a_block_that_the_model_did_not_write_are_passed_over() -> None:
    assert facts.stored_facts("Nothing known yet.\nNote: be kind\n\nThe user likes tea.") == facts.stated_facts(
        "I like tea"
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"records": ["user: My name is Ada.\\nai: My name is Bot.", "ai: Noted."]}',
        '{"user": "My name is Ada."}\n{"ai": "My name is Bot."}',
        '{"quoted_user_message": "My name is Ada."}',
    ],
)
def test_facts_quoted_in_a_json_object_are_read(text: str) -> None:
    assert [fact.value for fact in facts.stated_facts(text)] == ["Ada"]
