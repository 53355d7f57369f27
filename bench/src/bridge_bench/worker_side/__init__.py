"""Code that runs in a worker's or a producer's process, also in the peers' environments.

Nothing here imports more than the standard library at module level, except where a module says which library its
environment has.
"""
