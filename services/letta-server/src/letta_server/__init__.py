"""Runs Letta 0.16.8 on PostgreSQL or openGauss with nothing to set up by hand.

The rooms, in the order a start passes them::

    main          command line, exit codes
    settings      what the environment says, checked
    database      waits for the server; connections, creating a database
    preflight     what kind of server, mode, vectors, rights, free connections
    initialise    database, extension, schema, stamp
    hooks         what makes Letta's SQL openGauss's
    launch        Letta itself, in this process

and, on its own, ``transfer``: one database copied into another.

What differs between the two servers is in ``shared_utils.persistence.dialects``. Only ``schema``, ``hooks`` and
``launch`` import Letta or SQLAlchemy, and only when called: everything before them starts fast and fails early.
"""
