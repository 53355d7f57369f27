"""One small stack for all runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bridge_chaos.choices import Chooser
from bridge_chaos.conversation import Conversation
from bridge_chaos.environment import Environment
from bridge_chaos.load import Load
from bridge_chaos.topology import Topology
from bridge_chaos.workspace import Workspace


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with (
        Workspace(tmp_path_factory.mktemp("chaos")) as workspace,
        Environment(workspace, Topology(latency=0.08)) as environment,
    ):
        yield environment


@pytest.fixture
def conversation(environment: Any, request: pytest.FixtureRequest) -> Iterator[Conversation]:
    """A few users who have said two things each, one of them the second in private, and been answered."""
    environment.renew()
    tag = request.node.name.replace("_", "-")
    load = Load(users=4, messages=2, seconds=0.3, with_persona=1, choosing=1, streamed=False)
    # One bridge only: it knows at once what was chosen there.
    environment.bridges[1].stop()
    conversation = Conversation(environment.client, load, tag, Chooser([environment.bridges[0].url]))
    conversation.begin()
    assert conversation.wait_pushed(30)
    assert conversation.wait_all(60)
    yield conversation
    conversation.close()
    environment.bridges[1].start()
