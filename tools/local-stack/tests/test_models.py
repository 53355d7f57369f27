from __future__ import annotations

from local_stack.models import operators_model


def test_without_key_and_url_the_operator_has_no_model() -> None:
    assert operators_model({"LETTA_MODEL": "openai/gpt-4o"}) is None


def test_a_key_alone_means_openai() -> None:
    model = operators_model({"OPENAI_API_KEY": "k"})
    assert model
    assert (model.url, model.api_key) == ("https://api.openai.com/v1", "k")
    assert (model.handle, model.name) == ("openai/gpt-4o-mini", "gpt-4o-mini")


def test_another_address_changes_the_handle_as_letta_names_it() -> None:
    model = operators_model({"OPENAI_BASE_URL": "http://localhost:11434/v1"})
    assert model
    assert model.handle == "openai-proxy/gpt-4o-mini"
    assert model.api_key


def test_the_operators_handles_win() -> None:
    model = operators_model(
        {"OPENAI_API_KEY": "k", "LETTA_MODEL": "openai/gpt-4.1", "LETTA_EMBEDDING": "e", "MEMORY_MODEL": "m"}
    )
    assert model
    assert (model.handle, model.embedding, model.name) == ("openai/gpt-4.1", "e", "m")


def test_line_ends_and_quotes_around_model_variables_are_stripped() -> None:
    model = operators_model({"OPENAI_API_KEY": "'k'\r\n", "OPENAI_BASE_URL": "\ufeffhttp://h/v1\n", "LETTA_MODEL": " "})
    assert model
    assert (model.url, model.api_key, model.handle) == ("http://h/v1", "k", "openai-proxy/gpt-4o-mini")
    assert operators_model({"OPENAI_API_KEY": "\n", "OPENAI_BASE_URL": '""'}) is None


def test_a_model_without_a_provider_gets_that_of_its_address() -> None:
    model = operators_model({"OPENAI_API_KEY": "k", "LETTA_MODEL": "gpt-4"})
    assert model is not None
    assert (model.handle, model.name) == ("openai/gpt-4", "gpt-4")
    model = operators_model({"OPENAI_BASE_URL": "http://h/v1", "LETTA_MODEL": "qwen"})
    assert model is not None
    assert model.handle == "openai-proxy/qwen"
