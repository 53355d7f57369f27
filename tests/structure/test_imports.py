"""What is imported is declared: by each package, for tests by the dev group, for a compared queue by its requirements.

Nothing depends in a circle, and production imports no development tool.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
PRODUCTION = ("clients", "services", "shared_utils")
PROVIDED = {"pydantic_core": "pydantic", "starlette": "fastapi", "psycopg_pool": "psycopg"}
"""Import name → the distribution that pins it, or has it as an extra: who declares that one may import it."""


@dataclass(frozen=True)
class Package:
    name: str
    """Of the distribution."""
    module: str
    folder: Path
    declared: frozenset[str]

    @property
    def production(self) -> bool:
        return self.folder.relative_to(CHECKOUT).parts[0] in PRODUCTION


def normalised(requirement: str) -> str:
    """The name in a requirement, as indexes compare it."""
    found = re.match(r"[\w.-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def read(pyproject: Path) -> Package:
    content = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    project = content["project"]
    groups = (project.get("optional-dependencies", {}), content.get("dependency-groups", {}))
    wanted = [*project["dependencies"], *(each for group in groups for extra in group.values() for each in extra)]
    module = content["tool"]["uv"]["build-backend"]["module-name"]
    return Package(project["name"], module, pyproject.parent, frozenset(map(normalised, wanted)))


PACKAGES = [
    read(pyproject)
    for pattern in ("clients/*", "services/*", "tools/*", "shared_utils", "bench")
    for pyproject in sorted(CHECKOUT.glob(f"{pattern}/pyproject.toml"))
]
OWN = {package.module: package for package in PACKAGES}
LISTED = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=CHECKOUT, capture_output=True, check=True, text=True)
LOOSE = sorted({Path(name) for name in LISTED.stdout.split("\0") if name and "src" not in Path(name).parts})
"""Tests, examples and scripts: whatever lies in no package."""


@cache
def modules(package: Package) -> dict[str, Path]:
    """Dotted name → file."""
    root = package.folder / "src"
    found = {}
    for path in sorted((root / package.module).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(package: Package) -> dict[str, set[str]]:
    """Module → the modules it imports, anywhere in it: also within functions, and for type checkers only."""
    return {name: set(_imports(path, modules(package))) for name, path in modules(package).items()}


def _imports(path: Path, own: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in own else node.module


def home(path: Path) -> Path:
    """The folder whose declarations count for a loose file."""
    folders = [package.folder.relative_to(CHECKOUT) for package in PACKAGES]
    with_requirements = [parent for parent in path.parents if any((CHECKOUT / parent).glob("*.in"))]
    found = [*with_requirements, *(folder for folder in folders if path.is_relative_to(folder))]
    return found[0] if found else Path(path.parts[0])


@cache
def declared_at(folder: Path) -> frozenset[str]:
    """Normalised names of what may be imported by a loose file whose home is `folder`."""
    if folder == Path("deploy"):
        return frozenset()  # images run these with whatever Python they have
    files = (CHECKOUT / folder).glob("*.in")
    required = {normalised(line) for file in files for line in file.read_text(encoding="utf-8").split("\n") if line}
    if required and folder.parts[:2] == ("bench", "peers"):
        return frozenset(required | {OWN["bridge_bench"].name})  # an environment of its own, and the path to that one
    root = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    sources = {CHECKOUT / path for path in root["tool"]["pytest"]["ini_options"]["pythonpath"]}
    own = {p.name for p in PACKAGES if p.folder / "src" in sources or folder.is_relative_to(p.folder)}
    of_package = {
        name for p in PACKAGES if (CHECKOUT / folder).is_relative_to(p.folder) for name in (p.name, *p.declared)
    }
    return frozenset({*map(normalised, root["dependency-groups"]["dev"]), *required, *own, *of_package})


_distributions = cache(packages_distributions)


def undeclared(imported: set[str], declared: frozenset[str]) -> set[str]:
    """Those top-level names among what is imported that no declared distribution brings."""
    distributions = _distributions()
    missing = set()
    for top in {name.partition(".")[0] for name in imported} - sys.stdlib_module_names:
        wanted = [OWN[top].name] if top in OWN else [PROVIDED.get(top, top), *distributions.get(top, ())]
        if not declared.intersection(map(normalised, wanted)):
            missing.add(top)
    return missing


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of a circle; none where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_package_declares_its_imports(package: Any) -> None:
    declared = package.declared | {package.name}
    missing = {module: undeclared(imported, declared) for module, imported in imports(package).items()}
    assert {module: names for module, names in missing.items() if names} == {}


@pytest.mark.parametrize("folder", sorted({home(path) for path in LOOSE}), ids=str)
def test_tests_and_scripts_import_only_declared_packages(folder: Any) -> None:
    missing = {}
    links = {link.name for link in (CHECKOUT / ".mypy").iterdir()}  # names of tests, for mypy alone
    for path in (CHECKOUT / path for path in LOOSE if home(path) == folder):
        siblings = {other.stem for other in path.parent.glob("*.py")}
        if names := undeclared(set(_imports(path, {})), declared_at(folder)) - siblings - links:
            missing[str(path)] = names
    assert missing == {}


def test_every_python_file_is_looked_at() -> None:
    files = {CHECKOUT / name for name in LISTED.stdout.split("\0") if name}
    packaged = {path for package in PACKAGES for path in modules(package).values()}
    assert files - packaged - {CHECKOUT / path for path in LOOSE} == set()


def test_an_undeclared_import_is_found() -> None:
    declared = declared_at(Path("tests"))
    assert undeclared({"json", "redis.asyncio", "letta_bridge.main", "numpy"}, declared) == {"numpy"}
    assert undeclared({"redis"}, declared_at(Path("deploy"))) == {"redis"}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_production_packages_import_no_development_tool(package: Any) -> None:
    tools = {other.module for other in PACKAGES if not other.production}
    imported = {name.partition(".")[0] for names in imports(package).values() for name in names}
    assert not package.production or not imported & tools


def test_shared_utils_imports_none_of_its_users() -> None:
    imported = {name.partition(".")[0] for names in imports(OWN["shared_utils"]).values() for name in names}
    assert imported & OWN.keys() == {"shared_utils"}


def test_only_tests_import_the_fakes() -> None:
    fakes = "letta_bridge.testing"
    importing = {
        module for module, names in imports(OWN["letta_bridge"]).items() if any(n.startswith(fakes) for n in names)
    }
    assert importing
    assert all(module.startswith(fakes) for module in importing)


def test_packages_depend_on_each_other_in_one_direction() -> None:
    graph = {
        package.module: {name.partition(".")[0] for names in imports(package).values() for name in names}
        & (OWN.keys() - {package.module})
        for package in PACKAGES
    }
    assert circle(graph) == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_modules_and_rooms_depend_on_each_other_in_one_direction(package: Any) -> None:
    """In every folder: among its modules and the folders in it, each of which counts as one."""
    found = imports(package)
    folders = {name for name, path in modules(package).items() if path.name == "__init__.py"}
    for folder in sorted(folders):
        graph: dict[str, set[str]] = {}
        for module, imported in found.items():
            for other in imported & found.keys():
                parts = [name.removeprefix(folder).lstrip(".").partition(".")[0] for name in (module, other)]
                inside = all(name == folder or name.startswith(f"{folder}.") for name in (module, other))
                if inside and parts[0] != parts[1]:
                    graph.setdefault(parts[0], set()).add(parts[1])
        assert circle(graph) == [], folder


def test_a_circle_is_found() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert circle({"a": {"b"}, "b": {"c"}, "d": {"a"}}) == []
