"""Packages that Letta requires and that an installation may lack, because no operation of the allowlist uses them.

``left_out.toml`` names them. Letta imports most of them in the function that needs them; there, ``explain`` says in a
sentence what is missing and how to get it. At its start, Letta imports only the class ``MarkItDown``, which ``explain``
replaces by one that says the same when it is used.
"""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.resources import files
from types import ModuleType
from typing import Any, Final

_REMEDY: Final = "install all packages of services/letta-server/requirements.lock (LETTA_SERVER_PACKAGES=all)"


def missing() -> Mapping[str, str]:
    """Modules of ``left_out.toml`` that are not installed here → what Letta needs each for."""
    packages = tomllib.loads(files("letta_server").joinpath("left_out.toml").read_text("utf-8"))
    return {
        module: package["serves"]
        for package in packages.values()
        for module in package["modules"]
        if importlib.util.find_spec(module) is None
    }


def explain(modules: Mapping[str, str]) -> None:
    """Let imports of missing modules fail with a sentence of ours. Called once, before Letta is imported.

    Args:
        modules: what ``missing`` returned.
    """
    if "markitdown" in modules:
        sys.modules["markitdown"] = _markitdown(_sentence("markitdown", modules["markitdown"]))
    sys.meta_path.append(_Explainer(modules))


def summary(modules: Mapping[str, str]) -> str:
    """What does not work without these modules, for an operator whose clients may use all of Letta's operations."""
    uses = sorted({use for use in modules.values() if not use.startswith("nothing")})
    return f"packages for {', '.join(uses)} are not installed, so these operations fail; {_REMEDY} to use them."


def _sentence(module: str, use: str) -> str:
    return f"letta-server is installed without the module {module}, which Letta needs for {use}; {_REMEDY}."


class _Explainer(MetaPathFinder):
    """The last finder: what reaches it was found by none."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = modules

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        if name in self._modules:
            raise ModuleNotFoundError(_sentence(name, self._modules[name]), name=name)
        return None


def _markitdown(sentence: str) -> ModuleType:
    class MarkItDown:
        def __init__(self, *_arguments: Any, **_options: Any) -> None:
            raise ModuleNotFoundError(sentence, name="markitdown")

    module = ModuleType("markitdown", sentence)
    module.MarkItDown = MarkItDown  # type: ignore[attr-defined]  # a module's attributes are not declared
    return module
