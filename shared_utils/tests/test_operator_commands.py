"""Which program the sentences of errors name."""

from __future__ import annotations

import pytest

from shared_utils import operator_commands
from shared_utils.operator_commands import command, declare_program


@pytest.fixture
def undeclared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator_commands._Program, "name", "")


@pytest.mark.usefixtures("undeclared")
def test_a_command_is_named_with_the_program_that_a_service_declares() -> None:
    assert command("migrate --grant ada") == "migrate --grant ada"
    declare_program("a-service")
    assert command("migrate --grant ada") == "a-service migrate --grant ada"
