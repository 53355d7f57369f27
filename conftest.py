"""Loaded before any test module: pytest would else take the folder ``shared_utils/`` for the package of that name."""

from __future__ import annotations

import importlib

importlib.import_module("shared_utils")

pytest_plugins = ["local_stack.databases"]
