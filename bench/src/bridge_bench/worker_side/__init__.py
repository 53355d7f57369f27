"""What runs in a worker's or a producer's own process, also in the peers' environments.

Nothing here imports more than the standard library at module level, except where a module says which library its
environment has.
"""
