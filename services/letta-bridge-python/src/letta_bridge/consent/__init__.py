"""Whether agents may remember a user: where choices lie, how their copies are kept equal, and what holds for a turn."""

from letta_bridge.consent.consent import Consent, Verdict
from letta_bridge.consent.copies import ChoiceCopies
from letta_bridge.consent.redis_choices import RedisChoices
from letta_bridge.consent.shared_choices import InMemorySharedChoices, SharedChoices, Sighting

__all__ = [
    "ChoiceCopies",
    "Consent",
    "InMemorySharedChoices",
    "RedisChoices",
    "SharedChoices",
    "Sighting",
    "Verdict",
]
