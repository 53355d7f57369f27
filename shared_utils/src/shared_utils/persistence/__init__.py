"""State in PostgreSQL or openGauss through psycopg, in files without a database or during outages, in memory in tests.

::

    database/       how the database is reached and found fit, its connections, its schema, its errors
    dialects/       what differs between the two products; the one seam
    sessions/       which agent is a user's
    choices/        what users chose about permanent memory
    session_file/   the SQLite file of sessions and choices: its tables
    erasures/       the audit of erased users
    repositories/   rows typed by pydantic models, and the conditions that may be asked of them
    conversations/  conversations and messages
    checkpoints/    checkpoints of graphs; langgraph/ is an extra on top
    vectors/        embeddings of passages, and the search among them; langchain/ is an extra on top
    table_copy/     all rows out and back in
    catalogue/      docs/sql.md
    statements.py   SQL lives in sql/*.sql
    sqlite_file.py  a SQLite file that several processes share
    loop_calls.py   calls from threads into the event loop of a store

Where a room has them, ``port`` is the interface with its records, ``database_store``, ``file_store`` and
``memory_store`` are its adapters, and ``failover_store`` or ``fallback_store`` is two of them together.

Importing this package imports none of them: ``dialects`` alone is also used where little else is installed.
"""
