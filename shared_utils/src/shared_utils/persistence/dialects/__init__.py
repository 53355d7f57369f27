"""What differs between PostgreSQL and openGauss: the one seam. Pure values and texts; nothing here opens a connection.

This package needs psycopg and nothing else of the project but its errors, so that whatever talks to one of the two
servers may use it.
"""

from shared_utils.persistence.dialects.dialect import Dialect
from shared_utils.persistence.dialects.login import login_refusal
from shared_utils.persistence.dialects.opengauss import OpenGauss
from shared_utils.persistence.dialects.postgresql import PostgreSQL
from shared_utils.persistence.dialects.recognition import recognise

__all__ = ["Dialect", "OpenGauss", "PostgreSQL", "login_refusal", "recognise"]
