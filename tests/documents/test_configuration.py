"""Settings are described, defined once, and set by one variable each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from letta_bridge import config_layout
from letta_bridge.settings import BridgeSettings
from memory_service.config_layout import LAYOUT
from memory_service.settings import ServiceSettings
from shared_utils.config.variables import leaves

MODELS = (BridgeSettings, ServiceSettings)
SERVICES = ((BridgeSettings, config_layout.LAYOUT), (ServiceSettings, LAYOUT))


def test_the_sections_of_config_json_are_those_of_the_services() -> None:
    sections = {name for model in MODELS for name in model.model_fields}
    for _, layout in SERVICES:
        assert layout.sections == sections


def test_both_services_take_the_file_and_the_variables_for_the_same() -> None:
    assert replace(config_layout.LAYOUT, renames=()) == replace(LAYOUT, renames=())


def test_settings_that_both_services_read_are_defined_once() -> None:
    for name in BridgeSettings.model_fields.keys() & ServiceSettings.model_fields.keys():
        bridge, memory = BridgeSettings.model_fields[name].annotation, ServiceSettings.model_fields[name].annotation
        assert bridge is not None
        assert memory is not None
        of_bridge, of_memory = bridge.model_fields, memory.model_fields
        assert of_memory.keys() <= of_bridge.keys()
        for setting, field in of_memory.items():
            assert (field.default, field.metadata) == (of_bridge[setting].default, of_bridge[setting].metadata)


def test_no_variable_sets_two_settings() -> None:
    owners: dict[str, str] = {}
    for model, layout in SERVICES:
        for leaf in leaves(model):
            for name in (*leaf.variables(layout), *layout.former.get(leaf.path, ())):
                assert owners.setdefault(name, leaf.path) == leaf.path
                # NAME_FILE is the file of NAME and nothing else.
                assert name.removesuffix("_FILE") == name or name.removesuffix("_FILE") not in owners


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_is_described(model: Any) -> None:
    for leaf in leaves(model):
        assert leaf.field.description, leaf.path


def test_only_secrets_look_like_secrets() -> None:
    for model in MODELS:
        for leaf in leaves(model):
            name = leaf.path.rpartition(".")[2]
            looks_secret = any(word in name for word in ("password", "api_key", "salt", "secret"))
            assert looks_secret <= leaf.secret, leaf.path
