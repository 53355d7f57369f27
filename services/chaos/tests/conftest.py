"""One small stack for all runs."""

from __future__ import annotations

import pytest

from bridge_chaos.load import Conversation, Load
from bridge_chaos.rig import Lab, Rig, Shape


@pytest.fixture(scope="session")
def rig(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("chaos")) as lab, Rig(lab, Shape(latency=0.08)) as rig:
        yield rig


@pytest.fixture
def conversation(rig, request):
    """A few users who have said one thing each, and been answered."""
    rig.renew()
    tag = request.node.name.replace("_", "-")
    conversation = Conversation(rig.client, Load(users=3, messages=2, seconds=0.3), tag)
    conversation.begin()
    assert conversation.wait_pushed(10)
    assert conversation.wait_all(30)
    yield conversation
    conversation.close()
