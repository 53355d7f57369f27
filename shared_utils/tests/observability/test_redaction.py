"""Secrets by value, what people say, and who they are."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from shared_utils.observability import redaction
from shared_utils.observability.logs import pseudonym, redact, redact_text
from shared_utils.observability.redaction import Policy


@pytest.fixture(autouse=True)
def policy(monkeypatch: pytest.MonkeyPatch) -> redaction.Policy:
    policy = Policy()
    monkeypatch.setattr(redaction, "policy", policy)
    return policy


@pytest.mark.parametrize(
    "key", ["answer", "content", "input", "message", "payload", "prompt", "response_text", "summary", "text"]
)
def test_message_texts_are_hidden_unless_switched_on(policy: redaction.Policy, key: str) -> None:
    event = {"event": "x", key: "我叫小明", "deep": {key: ["one", "two"]}}
    assert redact(None, "", dict(event)) == {"event": "x", key: "<4 characters>", "deep": {key: "<hidden>"}}
    policy.message_text = True
    assert redact(None, "", dict(event)) == event


def test_an_absent_text_stays_absent() -> None:
    assert redact(None, "", {"text": None, "user_id": None}) == {"text": None, "user_id": None}


@pytest.mark.parametrize("key", ["user_id", "user", "lane"])
def test_user_ids_are_hidden_unless_switched_on(policy: redaction.Policy, key: str) -> None:
    hidden = redact(None, "", {key: "ada", "deep": [{key: "ada"}]})
    assert hidden[key] == hidden["deep"][0][key] == pseudonym("ada")
    assert "ada" not in str(hidden)
    policy.user_ids = True
    assert redact(None, "", {key: "ada"}) == {key: "ada"}


def test_a_pseudonym_is_the_same_for_the_same_user_and_salt(policy: redaction.Policy) -> None:
    policy.salt = "ours"
    assert redact(None, "", {"user_id": "ada"}) == redact(None, "", {"user_id": "ada"})
    names = {pseudonym("ada"), pseudonym("bo"), pseudonym("ada", "ours"), pseudonym("ada", "theirs" * 100)}
    assert len(names) == 4
    assert all(name.startswith("user-") and len(name) == 17 for name in names)


def test_a_secret_is_hidden_by_its_value_wherever_it_turns_up(policy: redaction.Policy) -> None:
    policy.secrets = ("correct horse battery", "correct horse")
    text = "AUTH correct horse battery failed, then correct horse"
    assert redact_text(text) == "AUTH *** failed, then ***"
    assert redact(None, "", {"error": ValueError(text), "deep": [{"why": text}]}) == {
        "error": "ValueError('AUTH *** failed, then ***')",
        "deep": [{"why": "AUTH *** failed, then ***"}],
    }


def test_inputs_in_pydantic_errors_are_hidden(policy: redaction.Policy) -> None:
    class Model(BaseModel):
        number: int

    with pytest.raises(ValidationError) as caught:
        Model(number="what a user said, input_type=str")
    shown = redact_text(str(caught.value))
    assert "user said" not in shown
    assert "input_value=***, input_type=str" in shown
    policy.message_text = True
    assert "user said" in redact_text(str(caught.value))
