"""Several processes that serve Letta on one port and one database; Linux only.

One process imports Letta, forks the workers, and does nothing else but keep them::

    supervisor   the parent: starts workers one after the other, replaces those that end or hang, stops them all
    acceptor     ... accepts the connections, and gives each to the worker that has fewest
    child        ... its view of one worker
    abandoned    ... runs that a worker left behind when it ended; another worker ends them in Letta
    channel      messages between the two, and the connections themselves, over a Unix socket
    worker       a worker: Letta's application in uvicorn, for the connections that the parent gives it
    runs         ... names the runs it begins and ends; ends those of a dead worker

The parent has no event loop, no connection to the database and no thread, so that it can fork a worker at any time. A
worker shares the memory of all that was imported, and starts within a second or two.

The port is open while a worker serves. A connection that a worker has not taken yet belongs to the parent, which gives
it to another worker if the first one ends. Each agent's state is in the database, so any worker serves any request.
"""

from __future__ import annotations
