"""Every SQL statement the services send, so that it can be checked against a server nobody here can start.

``python -m shared_utils.persistence.catalogue`` prints it, ``./run generate`` writes it as ``docs/sql.md``. A statement
that a test sees sent and that is not in it fails that test.
"""

from shared_utils.persistence.catalogue.known import known
from shared_utils.persistence.catalogue.page import render
from shared_utils.persistence.catalogue.preliminaries import PRELIMINARIES

__all__ = ["PRELIMINARIES", "known", "render"]
