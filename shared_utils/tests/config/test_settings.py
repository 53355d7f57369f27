"""Where a setting comes from, and what the operator reads where it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from shared_utils.config.layout import Layout
from shared_utils.config.settings import (
    LogSettings,
    RedisSettings,
    Section,
    TextList,
    config_file,
    load,
    setting,
)
from shared_utils.errors import SettingsError

LAYOUT = Layout(
    prefix="PROGRAM_", sections=frozenset({"redis", "logs", "letta", "agents", "memory"}), short_beginnings=("LETTA_",)
)


class Inner(Section):
    size: int = setting(1, "INNER_SIZE", doc="a nested leaf", gt=0)


class Named(Section):
    words: dict[str, str] = setting({"en": "hello"}, doc="a table in a table")


class Letta(Section):
    enabled: bool = setting(True, "LETTA_ENABLED", doc="a switch")
    timeout: float = setting(60.0, "TIMEOUT", "OLD_TIMEOUT", doc="two variables", gt=0)
    api_urls: TextList = setting(("http://a",), "LETTA_API_URL", doc="a list")
    api_key: SecretStr | None = setting(None, "LETTA_API_KEY", doc="a secret")
    routing: dict[str, Literal["here", "there"]] = setting({"x": "here"}, doc="a table")
    named: dict[str, Named] = setting({"default": Named()}, doc="sections by a free name")
    inner: Inner = Inner()


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    redis: RedisSettings = RedisSettings()
    logs: LogSettings = LogSettings()
    letta: Letta = Letta()


class Checkout:
    """A directory with configuration files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.main = directory / "config.json"
        self.local = directory / "config.local.json"

    def read(
        self,
        main: str | dict[str, Any] | None = None,
        local: dict[str, Any] | None = None,
        environ: dict[str, str] | None = None,
        flags: dict[str, int] | None = None,
    ) -> Any:
        for path, content in ((self.main, main), (self.local, local)):
            if content is not None:
                text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
                path.write_text(text, encoding="utf-8")
        return load(Settings, LAYOUT, config=self.main, environ=environ or {}, flags=flags)

    def refusal(self, *args: Any, **kwargs: Any) -> str:
        with pytest.raises(SettingsError) as caught:
            self.read(*args, **kwargs)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_without_any_source_the_defaults_hold(checkout: Any) -> None:
    assert checkout.read() == load(Settings, LAYOUT, config=None, environ={})
    assert checkout.read().settings == Settings()
    assert checkout.read().origins == {}


@pytest.mark.parametrize("sources", range(5))
def test_each_source_is_laid_over_the_one_before(checkout: Checkout, sources: Any) -> None:
    given: list[dict[str, Any]] = [
        {"main": {"redis": {"port": 1}}},
        {"local": {"redis": {"port": 2}}},
        {"environ": {"REDIS_PORT": "3"}},
        {"flags": {"redis.port": 4, "redis.host": None}},
    ]
    loaded = checkout.read(**{name: value for part in given[:sources] for name, value in part.items()})
    origins = [None, str(checkout.main), str(checkout.local), "REDIS_PORT", "command line"]
    assert loaded.settings.redis.port == [6379, 1, 2, 3, 4][sources]
    assert loaded.origins.get("redis.port") == origins[sources]
    assert loaded.settings.redis.host == "localhost"


def test_local_file_overrides_only_its_settings(checkout: Any) -> None:
    loaded = checkout.read(
        {"letta": {"timeout": 5, "routing": {"a": "here", "b": "here"}, "inner": {"size": 2}}, "redis": {"db": 1}},
        {"letta": {"routing": {"b": "there"}, "inner": {}}, "redis": {}},
    )
    assert loaded.settings.letta.routing == {"a": "here", "b": "there"}
    assert (loaded.settings.letta.timeout, loaded.settings.letta.inner.size, loaded.settings.redis.db) == (5, 2, 1)
    assert loaded.origins["letta.routing.a"] == str(checkout.main)
    assert loaded.origins["letta.routing.b"] == str(checkout.local)


def test_section_with_a_free_name_keeps_the_defaults_of_missing_settings(checkout: Any) -> None:
    named = checkout.read({"letta": {"named": {"default": {}, "luna": {"words": {"zh": "你好"}}}}}).settings.letta.named
    assert named["default"] == Named()
    assert named["luna"].words == {"zh": "你好"}


def test_a_nested_section_has_variables_too(checkout: Checkout) -> None:
    loaded = checkout.read({"letta": {"inner": {"size": 2}}}, environ={"INNER_SIZE": "3"})
    assert loaded.settings.letta.inner.size == 3
    assert loaded.origins["letta.inner.size"] == "INNER_SIZE"


def test_of_two_variables_the_first_that_is_set_wins(checkout: Any) -> None:
    environ = {"TIMEOUT": "", "OLD_TIMEOUT": "7"}
    assert checkout.read(environ=environ).settings.letta.timeout == 7
    loaded = checkout.read(environ=environ | {"TIMEOUT": "8"})
    assert (loaded.settings.letta.timeout, loaded.origins["letta.timeout"]) == (8, "TIMEOUT")


def test_an_empty_variable_counts_as_not_set(checkout: Any) -> None:
    loaded = checkout.read({"redis": {"host": "valkey"}}, environ={"REDIS_HOST": "", "REDIS_PASSWORD_FILE": ""})
    assert loaded.settings.redis.host == "valkey"
    assert loaded.origins == {"redis.host": str(checkout.main)}


@pytest.mark.parametrize(
    ("text", "urls"),
    [("http://b", ("http://b",)), (" http://b , http://c,", ("http://b", "http://c")), (",", ())],
)
def test_a_list_is_comma_separated_in_the_environment(checkout: Any, text: Any, urls: Any) -> None:
    assert checkout.read(environ={"LETTA_API_URL": text}).settings.letta.api_urls == urls


def test_a_secret_may_lie_in_a_file(checkout: Checkout, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("pass wörd \r\n", encoding="utf-8")
    loaded = checkout.read(environ={"REDIS_PASSWORD_FILE": str(secret)})
    assert loaded.settings.redis.password.get_secret_value() == "pass wörd "
    assert loaded.origins["redis.password"] == "REDIS_PASSWORD_FILE"
    both = checkout.read(environ={"REDIS_PASSWORD_FILE": str(secret), "REDIS_PASSWORD": "plain"})
    assert both.settings.redis.password.get_secret_value() == "plain"


@pytest.mark.parametrize("left", ["\n", "\r\n", "\ufeff", "\u200b"], ids=ascii)
def test_line_ends_and_quotes_are_stripped_from_every_source(checkout: Any, tmp_path: Path, left: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"\ufeff wörd {left}", encoding="utf-8")
    environ = {
        "REDIS_HOST": f" valkey{left}",
        "REDIS_PORT": f"7{left}",
        "LOG_LEVEL": f"'DEBUG'{left}",
        "LOG_USER_IDS": f"TRUE{left}",
        "LETTA_API_KEY": f'"key"{left}',
        "REDIS_PASSWORD_FILE": f"{secret}{left}",
    }
    settings = checkout.read({"redis": {"username": f"ada{left}"}}, environ=environ).settings
    redis = settings.redis
    assert (redis.host, redis.port, redis.username) == ("valkey", 7, "ada")
    assert (settings.logs.level, settings.logs.user_ids) == ("debug", True)
    assert (settings.letta.api_key.get_secret_value(), redis.password.get_secret_value()) == ("key", " wörd ")


@pytest.mark.parametrize("written", ["INFO", "Info", " info "])
def test_a_choice_may_be_written_in_any_case(checkout: Any, written: Any) -> None:
    assert checkout.read({"logs": {"level": written}}).settings.logs.level == "info"
    assert checkout.read({"letta": {"routing": {"a": " HERE "}}}).settings.letta.routing == {"a": "here"}


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"REDIS_PASSWORD": "hunter\n2"}, "the setting redis.password (from REDIS_PASSWORD) contains a line break"),
        ({"REDIS_URL": "redis://:hunter2@h\x01"}, "the setting redis.url (from REDIS_URL) contains a line break"),
        (
            {"LETTA_API_KEY": "hunter2\udcff"},
            "the setting letta.api_key (from LETTA_API_KEY) contains bytes that are not",
        ),
        ({"REDIS_HOST": "hunter2\x01"}, "the setting redis.host (from REDIS_HOST) contains a line break or another"),
    ],
)
def test_invalid_value_is_refused_by_its_variables_name_only(
    checkout: Checkout, environ: dict[str, str], sentence: str
) -> None:
    refusal = checkout.refusal(environ=environ)
    assert refusal.startswith(sentence)
    assert "hunter" not in refusal


def test_a_variable_of_blanks_counts_as_not_set(checkout: Any) -> None:
    assert checkout.read(environ={"REDIS_HOST": " ", "REDIS_PORT": "\n", "REDIS_PASSWORD": '""'}).settings == Settings()


def test_kubernetes_variables_of_a_service_named_redis_count_as_unset(checkout: Any) -> None:
    environ = {"REDIS_PORT": "tcp://10.96.0.1:6379", "REDIS_PORT_6379_TCP": "tcp://10.96.0.1:6379"}
    assert checkout.read(environ=environ).settings.redis.port == 6379
    assert checkout.read({"redis": {"port": 7}}, environ=environ).settings.redis.port == 7


def test_a_configuration_file_that_is_named_must_exist(tmp_path: Path) -> None:
    path, named = config_file(None, LAYOUT, {"PROGRAM_CONFIG": f"'{tmp_path}/typo.json'\n"})
    assert (path, named) == (tmp_path / "typo.json", True)
    with pytest.raises(SettingsError, match=r"typo\.json does not exist"):
        load(Settings, LAYOUT, config=path, environ={}, must_exist=named)
    assert config_file(tmp_path / "x.json", LAYOUT, {}) == (tmp_path / "x.json", True)
    path, named = config_file(None, LAYOUT, {"PROGRAM_CONFIG": " "})
    assert (path, named) == (Path("config.json"), False)
    assert load(Settings, LAYOUT, config=tmp_path / "none.json", environ={}).config is None


@pytest.mark.parametrize("must_exist", [True, False])
def test_a_file_that_cannot_be_looked_at_is_refused_in_one_sentence(must_exist: bool, tmp_path: Path) -> None:
    """As where its folder may not be entered, which root always may."""
    config = tmp_path / ("x" * 300)
    with pytest.raises(SettingsError, match=r"cannot be read \(File name too long\); check its permissions"):
        load(Settings, LAYOUT, config=config, environ={}, must_exist=must_exist)


@pytest.mark.parametrize("content", ["", "\n", " \t\n"])
def test_an_empty_secret_file_is_refused(checkout: Checkout, tmp_path: Path, content: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text(content, encoding="utf-8")
    refusal = checkout.refusal(environ={"REDIS_PASSWORD_FILE": str(secret)})
    assert refusal.startswith(f"REDIS_PASSWORD_FILE names {secret}, which is empty")


def test_another_empty_file_counts_as_not_set(checkout: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n", encoding="utf-8")
    assert checkout.read(environ={"LETTA_API_URL_FILE": str(empty)}).settings.letta.api_urls == ("http://a",)


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_secret_is_refused_wherever_it_stands(checkout: Any, blank: Any) -> None:
    sentence = "the secret letta.api_key (from {}) is empty; give it a value, or remove it"
    assert checkout.refusal({"letta": {"api_key": blank}}) == sentence.format(checkout.main)
    assert checkout.refusal({}, {"letta": {"api_key": blank}}) == sentence.format(checkout.local)
    if blank:
        assert checkout.refusal({}, {}, {"LETTA_API_KEY": blank}) == sentence.format("LETTA_API_KEY")
    else:
        assert checkout.read({}, {}, {"LETTA_API_KEY": blank}).settings.letta.api_key is None


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "not text"])
def test_a_secret_file_that_cannot_be_read_is_named(checkout: Checkout, tmp_path: Path, content: bytes | None) -> None:
    secret = tmp_path / "secret"
    if content:
        secret.write_bytes(content)
    refusal = checkout.refusal(environ={"REDIS_PASSWORD_FILE": str(secret)})
    assert refusal.startswith(f"REDIS_PASSWORD_FILE names {secret}, which ")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"lettta": {}}, "has an unknown section 'lettta'; did you mean 'letta'?"),
        ({"zzz": {}}, "has an unknown section 'zzz'; known are agents, "),
        ({"letta": {"api_url": ["x"]}}, "unknown key letta.api_url (from {main}); did you mean 'api_urls'?"),
        ({"letta": {"zzz": {"a": 1}}}, "unknown key letta.zzz (from {main}); known are api_key, "),
        ({"letta": {"inner": {"sizes": 1}}}, "letta.inner.sizes (from {main}); did you mean 'size'?"),
        ({"letta": {"named": {"luna": {"word": {"a": "b"}}}}}, "letta.named.luna.word (from {main}); did you mean 'w"),
        ({"redis": "localhost"}, "{main}: 'redis' must be a JSON object"),
        ({"redis": None}, "{main}: 'redis' must be a JSON object"),
        ({"letta": {"inner": [1]}}, "{main}: 'letta.inner' must be a JSON object"),
        ({"letta": {"routing": "here"}}, "the setting letta.routing (from {main}) is wrong: "),
        ({"letta": {"routing": {"a": "nowhere"}}}, "letta.routing.a (from {main}) is wrong: Input should be 'here' or"),
        ({"letta": {"timeout": 0}}, "letta.timeout (from {main}) is wrong: Input should be greater than 0"),
        ('{"letta": {"timeout": Infinity}}', "letta.timeout (from {main}) is wrong: Input should be a finite number"),
        ('{"letta": {"timeout": NaN}}', "letta.timeout (from {main}) is wrong: Input should be a finite number"),
        ({"logs": {"level": "loud"}}, "logs.level (from {main}) is wrong: "),
        ("{'a': 1}", "{main} is not valid JSON (Expecting property name"),
        ("[]", "{main} must hold a JSON object with the sections agents, "),
        ("[" * 100_000, "{main} is nested too deeply"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_file_is_refused_in_one_sentence_with_its_source(
    checkout: Checkout, content: str | dict[str, Any], sentence: str
) -> None:
    assert sentence.replace("{main}", str(checkout.main)) in checkout.refusal(content)


def test_the_local_file_is_named_where_it_is_wrong(checkout: Checkout) -> None:
    assert str(checkout.local) in checkout.refusal({"redis": {"port": 1}}, {"redis": {"port": "x"}})


def test_a_section_that_is_no_object_is_refused_even_where_a_variable_would_fill_it(checkout: Checkout) -> None:
    assert "'redis' must be" in checkout.refusal({"redis": "localhost"}, environ={"REDIS_HOST": "h"})


def test_a_wrong_variable_and_a_wrong_flag_are_named(checkout: Checkout) -> None:
    refusal = checkout.refusal(environ={"REDIS_PORT": "seven"})
    assert refusal.startswith("the setting redis.port (from REDIS_PORT) is wrong: Input should be a valid integer")
    assert "redis.port (from command line)" in checkout.refusal(flags={"redis.port": 70_000})


def test_a_services_other_sections_are_left_to_their_services(checkout: Any) -> None:
    assert checkout.read({"memory": {"anything": 1}, "$schema": "x"}).settings == Settings()


def test_a_file_with_a_byte_order_mark_is_read(checkout: Any) -> None:
    assert checkout.read('\ufeff{"redis": {"port": 5}}').settings.redis.port == 5


def test_a_file_that_is_not_utf8_is_refused(checkout: Checkout) -> None:
    checkout.main.write_bytes('{"letta": "ä"}'.encode("latin-1"))
    assert "is not UTF-8" in checkout.refusal()


def test_a_directory_instead_of_a_file_is_refused(checkout: Checkout) -> None:
    checkout.main.mkdir()
    assert "cannot be read (Is a directory)" in checkout.refusal()


@pytest.mark.parametrize(
    "content",
    [
        {"redis": {"password": ["hunter2"]}},
        {"redis": {"url": {"redis://:hunter2@h": "hunter2"}}},
        {"redis": "redis://:hunter2@h"},
        {"letta": {"api_key": 7, "timeout": "hunter2"}},
        '{"redis": {"password": "hunter2"',
    ],
    ids=str,
)
def test_a_refusal_never_quotes_a_value(checkout: Checkout, content: str | dict[str, Any]) -> None:
    assert "hunter2" not in checkout.refusal(content)


def test_settings_are_printed_without_secrets_and_cannot_be_changed(checkout: Any) -> None:
    settings = checkout.read(environ={"REDIS_URL": "redis://:hunter2@h", "LETTA_API_KEY": "hunter2"}).settings
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    with pytest.raises(ValidationError):
        settings.redis.port = 1
