"""Consent to permanent memory: where choices are stored, how replicas are reconciled, and the verdict for each turn."""

from letta_bridge.consent.consent import Consent, Verdict
from letta_bridge.consent.redis_choices import RedisChoices
from letta_bridge.consent.replicas import ChoiceReplicas
from letta_bridge.consent.shared_choices import ReplicaState, SharedChoices

__all__ = [
    "ChoiceReplicas",
    "Consent",
    "RedisChoices",
    "ReplicaState",
    "SharedChoices",
    "Verdict",
]
