"""Refusals of model servers, in the words of many."""

from __future__ import annotations

import json
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripted_model.providers import PROVIDERS, Situation
from shared_utils.llm.model_errors import Cause, read_refusal


def openai(message: str, **more: object) -> str:
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", "param": None, **more}})


OVERFLOWS = [
    openai("This model's maximum context length is 4097 tokens. However, you requested 5000 tokens.",
           code="context_length_exceeded"),
    openai("Your input exceeds the context window of this model. Please adjust your input and try again."),
    json.dumps({"error": {"code": 400, "message": "request (9000 tokens) exceeds the available context size (4096 "
                "tokens), try increasing it", "type": "exceed_context_size_error", "n_ctx": 4096}}),
    json.dumps({"type": "error", "error": {"type": "invalid_request_error",
                "message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
    json.dumps({"object": "error", "code": 400, "message": "This model's maximum context length is 8192 tokens. "
                "However, you requested 9000 tokens in the messages, Please reduce the length of the messages."}),
    json.dumps({"object": "error", "message": "The prompt is longer than the maximum model length of 2048"}),
    json.dumps([{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message":
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."}}]),
    json.dumps({"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"}),
    json.dumps({"error": "input length exceeds context length"}),
    openai("Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context "
           "length of 4096: the number of tokens to keep from the initial prompt is greater than the context length"),
    json.dumps({"message": "Input is too long for requested model."}),
    json.dumps({"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048",
                "error_type": "validation"}),
    json.dumps({"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"}),
    openai("This model's maximum prompt length is 131072 but the request contains 140000 tokens."),
    json.dumps({"code": "InvalidParameter", "message": "Range of input length should be [1, 30720]"}),
    json.dumps({"error": {"code": "1261", "message": "Prompt 超长"}}),
    openai("Invalid request: Your request exceeded model token limit: 8192"),
    json.dumps({"error": {"message": "input (600 tokens) is too large to process. increase the physical batch size"}}),
]  # fmt: skip


@pytest.mark.parametrize("body", OVERFLOWS)
@pytest.mark.parametrize("status", [400, 422, 500])
def test_an_overflow_is_known_in_any_providers_words(status: int, body: str) -> None:
    assert read_refusal(status, body).cause is Cause.OVERFLOW


@pytest.mark.parametrize("body", OVERFLOWS)
def test_an_error_rendered_by_a_client_reads_the_same(body: str) -> None:
    rendered = f"Bad request to OpenAI-compatible endpoint: Error code: 400 - {json.loads(body)!r}"
    assert read_refusal(400, rendered) == read_refusal(400, body)


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (401, openai("Incorrect API key provided: sk-ab***yz.", code="invalid_api_key"), Cause.CREDENTIALS),
        (400, json.dumps({"error": {"message": "API key not valid. Please pass a valid API key."}}), Cause.CREDENTIALS),
        (401, "", Cause.CREDENTIALS),
        (402, "", Cause.CREDITS),
        (429, openai("You exceeded your current quota, check your plan", code="insufficient_quota"), Cause.CREDITS),
        (400, json.dumps({"error": {"message": "Your credit balance is too low to access the API"}}), Cause.CREDITS),
        (403, openai("Country, region, or territory not supported"), Cause.FORBIDDEN),
        (404, openai("The model `gpt-9` does not exist or you do not have access to it."), Cause.UNKNOWN_MODEL),
        (404, "<html>nginx</html>", Cause.UNKNOWN_MODEL),
        (400, json.dumps({"error": "registry.ollama.ai/library/gemma:2b does not support tools"}), Cause.NO_TOOLS),
        (500, openai("tools param requires --jinja flag"), Cause.NO_TOOLS),
        (404, openai("No endpoints found that support tool use."), Cause.NO_TOOLS),
        (400, openai("The response was filtered due to the prompt triggering Azure's content management policy"),
         Cause.CONTENT),
        (400, openai("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                     "'max_completion_tokens' instead.", code="unsupported_parameter", param="max_tokens"),
         Cause.PARAMETER),
        (422, json.dumps({"detail": [{"loc": ["body", "encoding_format"], "msg": "extra fields not permitted"}]}),
         Cause.PARAMETER),
        (400, openai("messages: at least one message is required"), Cause.BAD_REQUEST),
        (413, "", Cause.OVERFLOW),
        (429, openai("Rate limit reached for requests"), Cause.RATE_LIMITED),
        (429, "", Cause.RATE_LIMITED),
        (500, "", Cause.UNAVAILABLE),
        (502, "<html>", Cause.UNAVAILABLE),
        (503, openai("The moderation service is overloaded"), Cause.UNAVAILABLE),
        (529, json.dumps({"error": {"type": "overloaded_error", "message": "Overloaded"}}), Cause.UNAVAILABLE),
        (301, "", Cause.BAD_REQUEST),
    ],
)  # fmt: skip
def test_the_cause_of_a_refusal(status: int, body: str, cause: Cause) -> None:
    assert read_refusal(status, body).cause is cause


@pytest.mark.parametrize(
    ("message", "parameter"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.", "max_tokens"),
        ("Unsupported value: 'temperature' does not support 0.7 with this model.", "temperature"),
        ("Unrecognized request argument supplied: max_completion_tokens", "max_completion_tokens"),
        ("temperature: may only be set to 1", "temperature"),
    ],
)
def test_a_refused_parameter_is_named(message: str, parameter: str) -> None:
    assert read_refusal(400, openai(message)).parameters == {parameter}


_FORBIDDEN = {"type": "extra_forbidden", "loc": ["body", "temperature"], "msg": "Extra inputs are not permitted"}


@pytest.mark.parametrize(
    ("status", "body", "parameter"),
    [
        (400, openai("Both temperature and this do not go together", param="max_tokens"), "max_tokens"),
        (422, json.dumps({"detail": [_FORBIDDEN | {"input": 0.7}]}), "temperature"),
        (422, json.dumps({"object": "error", "message": {"detail": [_FORBIDDEN]}, "code": None}), "temperature"),
        (
            400,
            json.dumps(
                {
                    "error": {
                        "message": "Provider returned error",
                        "code": 400,
                        "metadata": {"raw": openai("Unsupported", param="max_tokens", code="unsupported_parameter")},
                    }
                }
            ),
            "max_tokens",
        ),
        (
            400,
            json.dumps({"object": "error", "message": "max_tokens must be at least 1", "param": None, "code": 400}),
            "max_tokens",
        ),
        (
            400,
            openai("<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 8192]"),
            "max_tokens",
        ),
        (400, openai("deepseek-reasoner does not support the parameter `temperature`"), "temperature"),
        (
            400,
            openai(
                "parameter.enable_thinking must be set to false for non-streaming calls", code="invalid_parameter_error"
            ),
            "enable_thinking",
        ),
    ],
    ids=["param", "validator", "nested message", "router", "vllm", "qwen", "deepseek", "qwen thinking"],
)
def test_a_refused_parameter_is_found_where_each_server_names_it(status: int, body: str, parameter: str) -> None:
    refusal = read_refusal(status, body)
    assert (refusal.cause, refusal.parameters) == (Cause.PARAMETER, frozenset({parameter}))
    assert "0.7" not in refusal.words


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("The model `gpt-9` does not exist", "The model `gpt-9` does not exist"),
        ("This model's maximum context length is 4097 tokens.", "This model's maximum context length is 4097 tokens"),
        ("Invalid value: 'my secret diary'", "Invalid value: …"),
        ("1 validation error input_value='diary', input_type=str", "1 validation error"),
        ("Incorrect API key provided: sk-abcdefghijkl", "Incorrect API key provided: …"),
        ("cannot process: I went to the doctor today, with this model", "cannot process…, with this model"),
        ("a\n b", "a b"),
    ],
)
def test_the_providers_words_are_shown_without_the_users(message: str, words: str) -> None:
    hidden = ["Dear diary: I went to the doctor today", "ok"]
    assert read_refusal(400, openai(message, code="x"), hidden=hidden).words == words


def test_message_of_a_content_filter_is_not_quoted() -> None:
    refusal = read_refusal(400, openai("flagged: my diary", code="content_filter"))
    assert (refusal.cause, refusal.words) == (Cause.CONTENT, "content_filter")


@given(
    status=st.integers(100, 999),
    body=st.binary() | st.text() | st.dictionaries(st.sampled_from(["error", "message", "code", "detail"]),
        st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(
            st.sampled_from(["error", "message", "code"]), inner))).map(json.dumps),
)  # fmt: skip
def test_any_answer_has_a_meaning(status: int, body: str | bytes) -> None:
    refusal = read_refusal(status, body)
    assert "\n" not in refusal.sentence
    assert len(refusal.sentence) < 400


@given(said=st.text("abcdefgh ", min_size=12, max_size=60))
def test_nothing_that_was_hidden_is_quoted(said: str) -> None:
    words = read_refusal(400, openai(f"X{said}Y"), hidden=[said]).words
    assert all(said[at : at + 12] not in words for at in range(len(said) - 11))


_MEANT = {
    "key": Cause.CREDENTIALS,
    "balance": Cause.CREDITS,
    "model": Cause.UNKNOWN_MODEL,
    "rate": Cause.RATE_LIMITED,
    "thoughts": Cause.BAD_REQUEST,
    "texts": Cause.BAD_REQUEST,
}


@pytest.mark.parametrize(
    ("provider", "situation"),
    [(name, situation) for name, one in PROVIDERS.items() for situation in one.refusals if name != "unlisted"],
)
def test_refusals_that_providers_document_are_known(provider: str, situation: str) -> None:
    refused = PROVIDERS[provider].refusals[cast("Situation", situation)]
    refusal = read_refusal(refused.status, json.dumps(refused.body, ensure_ascii=False))
    assert refusal.cause is _MEANT[situation]
    assert refusal.words, "the provider's own words help"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, openai("The free tier of the model has been exhausted. If you wish to continue access the model on a "
                     'paid basis, please disable the "use free tier only" mode in the management console.',
                     code="AllocationQuota.FreeTierOnly")),
        (429, json.dumps({"error": {"code": "1309", "message": "您的 GLM Coding Plan 套餐已到期，暂无法使用"}},
                         ensure_ascii=False)),
    ],
)  # fmt: skip
def test_a_used_up_free_tier_or_plan_is_no_rate_limit(status: int, body: str) -> None:
    assert read_refusal(status, body).cause is Cause.CREDITS
