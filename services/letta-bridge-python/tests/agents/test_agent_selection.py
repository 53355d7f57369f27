"""Selection among several agents of one user: by content, in whatever order Letta lists them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from letta_bridge.agents.agent_selection import Candidate, candidates, select
from letta_bridge.agents.agent_spec import (
    Owner,
    agent_spec,
    agent_tags,
    attempt_tag,
    bridge_tag,
    identity_tags,
    of_another_tenant,
    opt_out_in,
    opt_out_tag,
    owner_of,
    untouched,
)
from letta_bridge.letta import AgentContents, AgentRef, TurnMessage
from letta_bridge.settings import AgentSettings
from letta_bridge.testing.letta import InMemoryLetta
from shared_utils.config.settings import TenantSettings
from shared_utils.persistence.choices.port import IMPORTED_MS, Choice, user_key

SETTINGS = AgentSettings()


def agent(
    name: str,
    *,
    age: int = 0,
    messages: int = 0,
    passages: int = 0,
    running: bool = False,
    complete: bool = True,
    noted: bool = False,
) -> Candidate:
    contents = AgentContents(complete, messages, passages, {}, running)
    used = bool(messages or passages or running or noted)
    return Candidate(AgentRef(name, name, (), f"2026-11-{20 - age:02}T00:00:00Z"), contents, used)


def ids(found: Any) -> Any:
    return [one.agent_id for one in found]


def chosen(found: Any, named: Any = None) -> str:
    """The same whatever the order."""
    orders: set[str] = set()
    for order in itertools.permutations(found):
        selected = select(order, named).chosen
        assert selected is not None
        orders.add(selected.agent_id)
    assert len(orders) == 1
    return orders.pop()


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (agent("other", messages=2), None),
        (agent("other", passages=1), None),
        (agent("other", noted=True), None),
        (agent("other", running=True), None),
        (agent("other", messages=2), "older"),
    ],
)
def test_an_older_agent_without_content_loses(other: Candidate, named: str | None) -> None:
    older = agent("older", age=5)
    assert chosen([older, other], named) == "other"
    found = select([older, other], named)
    assert (ids(found.empty), ids(found.conflicting)) == (["older"], [])


def test_of_two_with_content_the_one_named_by_a_session_wins() -> None:
    few, many = agent("few", messages=2), agent("many", messages=90, age=3)
    assert chosen([few, many], "few") == "few"
    assert ids(select([few, many], "few").conflicting) == ["many"]


def test_of_two_with_content_and_no_session_the_one_with_most_messages_wins() -> None:
    found = [agent("few", messages=2, age=9), agent("many", messages=90), agent("noted", passages=1, age=3)]
    assert chosen(found) == "many"
    assert chosen(found, "gone") == "many"
    assert ids(select(found, None).conflicting) == ["few", "noted"]


def test_of_empty_agents_the_oldest_wins_unless_a_session_names_another() -> None:
    found = [agent("b", age=1), agent("a"), agent("c", age=1)]
    assert chosen(found) == "b"
    assert chosen(found, "a") == "a"


def test_an_incomplete_agent_is_never_chosen() -> None:
    half = agent("half", complete=False, noted=True)
    assert select([half], "half").chosen is None
    found = select([half, agent("whole")], "half")
    assert found.chosen is not None
    assert (found.chosen.agent_id, ids(found.incomplete), ids(found.empty)) == ("whole", ["half"], [])
    assert select([], None).chosen is None


@given(
    st.lists(
        st.builds(
            agent,
            st.uuids().map(str),
            age=st.integers(0, 3),
            messages=st.integers(0, 3),
            running=st.booleans(),
            complete=st.booleans(),
        ),
        max_size=5,
    ),
    st.randoms(),
)
def test_no_agent_with_content_is_ever_classified_as_empty(found: list[Any], random: Any) -> None:
    named = random.choice([*ids(found), "gone"])
    selection = select(found, named)
    assert not any(one.used or not one.contents.complete for one in selection.empty)
    named_in_it = [*selection.empty, *selection.conflicting, *selection.incomplete]
    assert len(named_in_it) + (selection.chosen is not None) == len(found)
    assert selection.chosen is None or selection.chosen.used or not selection.conflicting


async def test_candidates_leave_out_deleted_agents() -> None:
    letta = InMemoryLetta()
    refs = [await letta.create_agent(agent_spec(SETTINGS, Owner("", "ada", "default"), "en")) for _ in range(3)]
    await letta.send(refs[0].agent_id, [TurnMessage("user", "hello", "o")], timeout=5)
    letta.note(refs[1].agent_id, "a passage")
    await letta.delete_agent(refs[2].agent_id)
    found = await candidates(letta, SETTINGS, "default", refs)
    assert [(one.agent_id, one.used) for one in found] == [(refs[0].agent_id, True), (refs[1].agent_id, True)]
    spare = await letta.create_agent(agent_spec(SETTINGS, Owner("", "ada", "default"), "zh"))
    assert [one.used for one in await candidates(letta, SETTINGS, "default", [spare])] == [False]


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ({}, True),
        ({"human": ""}, True),
        ({"human": "What I know about this user so far:"}, True),
        ({"human": "关于这位用户,我目前知道的:"}, True),
        ({"human": "The user is Ada."}, False),
        ({"human": "", "diary": ""}, False),
    ],
)
def test_blocks_count_as_untouched_while_they_hold_the_templates(blocks: dict[str, Any], expected: bool) -> None:
    assert untouched(SETTINGS, "default", blocks) is expected


class TestTags:
    def test_earlier_releases_do_not_find_the_agents_of_a_named_tenant(self) -> None:
        default, named = agent_tags("", "ada", "default"), agent_tags("shop", "ada", "default")
        assert default == ("bridge", "user:ada", "persona:default")
        assert not set(default) <= set(named)
        assert not set(named) <= set(default)

    @pytest.mark.parametrize("tenant", ["a", "shop_2", "0"])
    def test_no_two_tenants_share_a_tag(self, tenant: str) -> None:
        assert bridge_tag(tenant) == f"bridge:{tenant}"
        assert bridge_tag("") == "bridge"

    @pytest.mark.parametrize("tenant", ["A", "a b", "a:b", "a-b", "_a", "ä", "x" * 31])
    def test_an_ambiguous_tenant_name_is_refused(self, tenant: str) -> None:
        with pytest.raises(ValueError, match="name"):
            TenantSettings(name=tenant)

    def test_the_agents_of_one_user_in_two_tenants_have_two_names(self) -> None:
        owners = [Owner("", "ada", "default"), Owner("shop", "ada", "default")]
        assert len({agent_spec(SETTINGS, owner, None).name for owner in owners}) == 2

    @pytest.mark.parametrize(
        ("tags", "foreign"),
        [
            (("bridge", "user:ada"), False),
            (("bridge:shop", "user:ada"), True),
            (("user:ada",), False),
            ((), False),
            (("bridge", "bridge:shop"), False),
        ],
    )
    def test_an_agent_of_another_tenant_differs_from_one_that_no_bridge_created(
        self, tags: tuple[Any, ...], foreign: bool
    ) -> None:
        assert of_another_tenant("", tags) is foreign

    def test_identity_tags_leave_out_the_history_of_an_agent(self) -> None:
        opt_out = Choice(user_key("ada"), permanent_memory=False, chosen_ms=17)
        tags = (*agent_tags("", "ada", "cat"), attempt_tag("t"), opt_out_tag(opt_out), "mine")
        assert identity_tags(tags) == (*agent_tags("", "ada", "cat"), "mine")
        assert owner_of(tags) == ("ada", "cat")
        assert opt_out_in("ada", tags) == opt_out

    def test_the_latest_opt_out_counts_and_an_unreadable_one_is_the_earliest(self) -> None:
        latest = opt_out_in("ada", ["memory-opt-out:5", "memory-opt-out:9", "x"])
        unreadable = opt_out_in("ada", ["memory-opt-out:soon"])
        assert latest is not None
        assert unreadable is not None
        assert (latest.chosen_ms, unreadable.chosen_ms) == (9, IMPORTED_MS)
        assert opt_out_in("ada", ["memory", "user:memory-opt-out:5"]) is None
