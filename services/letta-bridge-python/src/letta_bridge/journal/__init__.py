"""The journal: what users and their agents said, in the database, for people and programs that read it later.

`record.py` says what is kept of a turn, `journal.py` writes it; until then turns wait in Redis
(`request_queue/journal_backlog.py`).
"""

from letta_bridge.journal.journal import Journal
from letta_bridge.journal.record import JOURNAL_SOURCE, JournalRows, conversation_id, journalled, read_entry

__all__ = ["JOURNAL_SOURCE", "Journal", "JournalRows", "conversation_id", "journalled", "read_entry"]
