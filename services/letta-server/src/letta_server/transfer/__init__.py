"""``letta-server move``: a whole Letta database from one server to another, PostgreSQL or openGauss.

The rooms, in the order a move passes them::

    command      the command's arguments, and what it does with them
    move         one move from start to end; what is refused
    database     a side of the move: opened read only, or to be filled
    catalog      the tables, columns, keys and sequences that are there
    plan         the order in which tables can be filled
    ledger       how far the move has come, kept on the target with the rows themselves
    transfer     rows, a batch a transaction
    sequences    the numbers handed out so far
    comparison   the same rows on both sides? counts and checksums
    display      lines of progress; bar: the same on a terminal

Nothing here imports Letta. The source is read in one snapshot and never written.
"""

from letta_server.transfer.command import register

__all__ = ["register"]
