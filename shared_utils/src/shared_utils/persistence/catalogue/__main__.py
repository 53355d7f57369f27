"""Print docs/sql.md."""

from __future__ import annotations

import sys

from shared_utils.persistence.catalogue.page import render

sys.stdout.write(render())
