"""Which of several agents is a user's: by what they hold, in whatever order Letta lists them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from letta_bridge.agent_selection import Candidate, candidates, select
from letta_bridge.agent_spec import (
    Owner,
    agent_spec,
    agent_tags,
    attempt_tag,
    bridge_tag,
    identity_tags,
    of_another_tenant,
    owner_of,
    refusal_in,
    refusal_tag,
    untouched,
)
from letta_bridge.letta import AgentContents, AgentRef, InMemoryLetta, TurnMessage
from letta_bridge.settings import AgentSettings
from shared_utils.persistence.choices import IMPORTED_MS, Choice, user_key
from shared_utils.settings import TenantSettings

SETTINGS = AgentSettings()


def agent(name, *, age=0, messages=0, passages=0, running=False, whole=True, noted=False):
    contents = AgentContents(whole, messages, passages, {}, running)
    used = bool(messages or passages or running or noted)
    return Candidate(AgentRef(name, name, (), f"2026-11-{20 - age:02}T00:00:00Z"), contents, used)


def ids(found):
    return [one.agent_id for one in found]


def chosen(found, named=None):
    """The same whatever the order."""
    orders = {select(order, named).chosen.agent_id for order in itertools.permutations(found)}
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
def test_an_older_agent_that_holds_nothing_is_surplus(other, named):
    older = agent("older", age=5)
    assert chosen([older, other], named) == "other"
    found = select([older, other], named)
    assert (ids(found.surplus), ids(found.rivals)) == (["older"], [])


def test_of_two_that_hold_something_the_one_a_session_names_is_kept():
    few, many = agent("few", messages=2), agent("many", messages=90, age=3)
    assert chosen([few, many], "few") == "few"
    assert ids(select([few, many], "few").rivals) == ["many"]


def test_of_two_that_hold_something_and_no_session_names_the_one_with_most_messages_is_kept():
    found = [agent("few", messages=2, age=9), agent("many", messages=90), agent("noted", passages=1, age=3)]
    assert chosen(found) == "many"
    assert chosen(found, "gone") == "many"
    assert ids(select(found, None).rivals) == ["few", "noted"]


def test_of_empty_ones_every_bridge_chooses_the_same_oldest_one_unless_a_session_names_another():
    found = [agent("b", age=1), agent("a"), agent("c", age=1)]
    assert chosen(found) == "b"
    assert chosen(found, "a") == "a"


def test_an_agent_that_was_not_made_to_the_end_is_never_chosen():
    half = agent("half", whole=False, noted=True)
    assert select([half], "half").chosen is None
    found = select([half, agent("whole")], "half")
    assert (found.chosen.agent_id, ids(found.half_made), ids(found.surplus)) == ("whole", ["half"], [])
    assert select([], None).chosen is None


@given(
    st.lists(
        st.builds(
            agent,
            st.uuids().map(str),
            age=st.integers(0, 3),
            messages=st.integers(0, 3),
            running=st.booleans(),
            whole=st.booleans(),
        ),
        max_size=5,
    ),
    st.randoms(),
)
def test_nothing_that_holds_something_is_ever_called_surplus(found, random):
    named = random.choice([*ids(found), "gone"])
    selection = select(found, named)
    assert not any(one.used or not one.contents.whole for one in selection.surplus)
    named_in_it = [*selection.surplus, *selection.rivals, *selection.half_made]
    assert len(named_in_it) + (selection.chosen is not None) == len(found)
    assert selection.chosen is None or selection.chosen.used or not selection.rivals


async def test_contents_are_read_and_agents_that_are_gone_left_out():
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
def test_blocks_are_untouched_while_they_hold_the_templates(blocks, expected):
    assert untouched(SETTINGS, "default", blocks) is expected


class TestTags:
    def test_agents_of_a_named_tenant_carry_no_tag_that_an_earlier_release_looks_for(self):
        default, named = agent_tags("", "ada", "default"), agent_tags("shop", "ada", "default")
        assert default == ("bridge", "user:ada", "persona:default")
        assert not set(default) <= set(named)
        assert not set(named) <= set(default)

    @pytest.mark.parametrize("tenant", ["a", "shop_2", "0"])
    def test_no_two_tenants_share_a_tag(self, tenant):
        assert bridge_tag(tenant) == f"bridge:{tenant}"
        assert bridge_tag("") == "bridge"

    @pytest.mark.parametrize("tenant", ["A", "a b", "a:b", "a-b", "_a", "ä", "x" * 31])
    def test_a_tenant_that_could_be_mistaken_is_refused(self, tenant):
        with pytest.raises(ValueError, match="name"):
            TenantSettings(name=tenant)

    def test_the_agents_of_one_user_in_two_tenants_have_two_names(self):
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
    def test_an_agent_of_another_tenant_is_told_from_one_that_no_bridge_made(self, tags, foreign):
        assert of_another_tenant("", tags) is foreign

    def test_what_became_of_an_agent_is_no_part_of_its_identity(self):
        refusal = Choice(user_key("ada"), permanent_memory=False, chosen_ms=17)
        tags = (*agent_tags("", "ada", "cat"), attempt_tag("t"), refusal_tag(refusal), "mine")
        assert identity_tags(tags) == (*agent_tags("", "ada", "cat"), "mine")
        assert owner_of(tags) == ("ada", "cat")
        assert refusal_in("ada", tags) == refusal

    def test_the_latest_refusal_counts_and_one_that_cannot_be_read_is_the_earliest(self):
        assert refusal_in("ada", ["memory-refused:5", "memory-refused:9", "x"]).chosen_ms == 9
        assert refusal_in("ada", ["memory-refused:soon"]).chosen_ms == IMPORTED_MS
        assert refusal_in("ada", ["memory", "user:memory-refused:5"]) is None
