"""Where state lives: PostgreSQL or openGauss through psycopg, files where there is none or it is away, memory in tests.

::

    database.py            one database: its connections, and how a piece of work is done in it
    connections.py         a connection, and the settings that every piece of work on it begins with
    arrival.py             the first connection: is it there, is it fit, may we
    migration.py           the schema in numbered steps (migrations/*.sql)
    dialects/              what differs between the two products; the one seam
    statements.py          SQL lives in sql/*.sql
    sessions.py            which agent is a user's: the port; database_, file_, memory_ and failover_sessions.py
    repository.py          rows typed by pydantic models; conditions.py is what may be asked of them
    conversation_service.py  conversations and messages
    checkpoints.py         checkpoints of graphs; langgraph/ is an extra on top
    vectors/               embeddings of passages, and the search among them; langchain/ is an extra on top
    loop_calls.py          calls from threads into the event loop of a store
    erasures.py            the audit of erased users
    table_copy.py          all rows out and back in; pg_dump.py where PostgreSQL's programs are

Importing this package imports none of them: ``dialects`` alone is also used where little else is installed.
"""
