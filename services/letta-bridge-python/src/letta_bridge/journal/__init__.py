"""The journal: the conversations of users and agents, in the database, for later readers.

`record.py` defines the rows of a turn, `journal.py` writes them; until then turns wait in Redis
(`request_queue/journal_backlog.py`).
"""

from letta_bridge.journal.journal import Journal
from letta_bridge.journal.record import JOURNAL_SOURCE, JournalRows, conversation_id, journalled, read_entry

__all__ = ["JOURNAL_SOURCE", "Journal", "JournalRows", "conversation_id", "journalled", "read_entry"]
