"""Runs Letta 0.16.8 on PostgreSQL with nothing to set up by hand.

The rooms, in the order a start passes them::

    main          command line, exit codes
    settings      what the environment says, checked
    preflight     waits for PostgreSQL and Redis; versions, rights
    initialise    database, extension, schema, stamp
    launch        Letta itself, in this process

Only ``schema`` and ``launch`` import Letta, and only when called: everything before them starts fast and fails early.
"""
