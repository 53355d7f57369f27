"""deploy/prepare: makes what is missing, changes nothing that is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def prepare(tmp_path: Path, checkout: Path) -> Callable[..., Path]:
    (tmp_path / "deploy").mkdir()
    shutil.copy(checkout / "deploy/prepare", tmp_path / "deploy")
    shutil.copy(checkout / ".env.example", tmp_path)

    def run(**environment: str) -> Path:
        words = [tmp_path / "deploy/prepare"]
        subprocess.run(words, env={"PATH": "/usr/bin:/bin", **environment}, check=True, capture_output=True)
        return tmp_path

    return run


@pytest.mark.process
def test_makes_every_secret_the_compose_file_names(prepare: Callable[..., Path], compose: Callable[..., Any]) -> None:
    root = prepare()
    for secret in compose("docker-compose.yml")["secrets"].values():
        file = root / secret["file"]
        assert file.read_text("utf-8").strip()
        assert file.stat().st_mode & 0o077 == 0
    password = (root / "secrets/database_password.txt").read_text("utf-8").strip()
    assert all(re.search(rule, password) for rule in ("[A-Z]", "[a-z]", "[0-9]", "[#?!@$%^&*-]"))
    made = {file.read_text("utf-8") for file in (root / "secrets").iterdir()}
    assert len(made) == len(list((root / "secrets").iterdir()))


@pytest.mark.process
def test_makes_the_folders_the_containers_write_to(prepare: Callable[..., Path], compose: Callable[..., Any]) -> None:
    root = prepare()
    for service in compose("docker-compose.yml")["services"].values():
        for mount in service.get("volumes", []):
            if mount.startswith("./data/"):
                assert (root / mount.split(":")[0]).is_dir()


@pytest.mark.process
def test_prepare_does_not_change_existing_files(prepare: Callable[..., Path]) -> None:
    root = prepare(OPENAI_API_KEY="sk-first")
    (root / ".env").write_text("mine", encoding="utf-8")
    before = {file: file.read_bytes() for file in (root / "secrets").iterdir()}
    prepare(OPENAI_API_KEY="sk-second")
    assert {file: file.read_bytes() for file in (root / "secrets").iterdir()} == before
    assert (root / ".env").read_text("utf-8") == "mine"
    assert (root / "secrets/openai_api_key.txt").read_text("utf-8") == "sk-first\n"


@pytest.mark.process
def test_prepare_runs_services_as_the_calling_user_but_never_as_root(prepare: Callable[..., Path]) -> None:
    settings = dict(re.findall(r"^(AIVTUBER_[UG]ID)=(\d+)$", (prepare() / ".env").read_text("utf-8"), re.MULTILINE))
    assert settings["AIVTUBER_UID"] != "0"
    assert settings["AIVTUBER_GID"] != "0"
