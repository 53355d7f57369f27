"""deploy/prepare: makes what is missing, changes nothing that is there."""

from __future__ import annotations

import os
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
    shutil.copy(checkout / "deploy/alone", tmp_path / "deploy")
    shutil.copytree(checkout / "deploy/redis", tmp_path / "deploy/redis")
    shutil.copy(checkout / "docker-compose.yml", tmp_path)
    for file in (checkout / "deploy").glob("compose.*.yml"):
        shutil.copy(file, tmp_path / "deploy")
    shutil.copy(checkout / ".env.example", tmp_path)

    def run(*words: str, **environment: str) -> Path:
        command: list[str | Path] = [tmp_path / "deploy/prepare", *words]
        done = subprocess.run(
            command, env={"PATH": "/usr/bin:/bin"} | environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return tmp_path

    return run


@pytest.mark.process
def test_makes_every_secret_the_compose_file_names(prepare: Callable[..., Path], compose: Callable[..., Any]) -> None:
    root = prepare()
    secrets = compose("docker-compose.yml")["secrets"]
    assert secrets.pop("build_ca") == {"file": "/dev/null"}  # unless BUILD_CA_FILE names a company's
    for secret in secrets.values():
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
    (root / ".env").write_text("MINE=1\n", encoding="utf-8")
    before = {file: file.read_bytes() for file in (root / "secrets").iterdir()}
    prepare(OPENAI_API_KEY="sk-second")
    assert {file: file.read_bytes() for file in (root / "secrets").iterdir()} == before
    assert (root / ".env").read_text("utf-8") == "MINE=1\n"
    assert (root / "secrets/openai_api_key.txt").read_text("utf-8") == "sk-first\n"


@pytest.mark.process
def test_prepare_runs_services_as_the_calling_user_but_never_as_root(prepare: Callable[..., Path]) -> None:
    settings = dict(re.findall(r"^(AIVTUBER_[UG]ID)=(\d+)$", (prepare() / ".env").read_text("utf-8"), re.MULTILINE))
    assert settings["AIVTUBER_UID"] != "0"
    assert settings["AIVTUBER_GID"] != "0"


def _settings(root: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", (root / ".env").read_text("utf-8"), re.MULTILINE))


_THEIRS = {"AIVTUBER_NETWORK": "theirs", "REDIS_URL": "redis://redis:6379/0"}


@pytest.mark.process
@pytest.mark.parametrize(
    ("overlay", "files"),
    [
        ("demo", "deploy/compose.demo.yml"),
        ("dev", "deploy/compose.demo.yml:docker-compose.dev.yml"),
        ("join", "deploy/compose.join.yml"),
        ("redis", "deploy/compose.redis.yml"),
    ],
)
def test_prepare_writes_the_chosen_files_into_the_settings(
    overlay: str, files: str, prepare: Callable[..., Path], checkout: Path
) -> None:
    root = prepare()
    assert "COMPOSE_FILE" not in _settings(root)
    prepare(overlay, **_THEIRS)
    settings = _settings(root)
    assert settings["COMPOSE_FILE"] == f"docker-compose.yml:{files}"
    assert all((checkout / file).is_file() for file in settings["COMPOSE_FILE"].split(":"))
    assert ("REDIS_URL" in settings) is (overlay in {"join", "redis"})
    prepare("whole")
    assert not _settings(root).keys() & {"COMPOSE_FILE", *_THEIRS}


@pytest.mark.process
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        *(
            (_THEIRS | {"REDIS_URL": f"redis://h{character}EVIL=1"}, "REDIS_URL holds a character")
            for character in "\n\r\t $#'\"`\\"
        ),
        (_THEIRS | {"REDIS_USERNAME": "a\nEVIL=1"}, "REDIS_USERNAME holds a character"),
        (_THEIRS | {"COMPOSE_PROJECT_NAME": "Other"}, "COMPOSE_PROJECT_NAME may hold"),
        (_THEIRS | {"COMPOSE_PROJECT_NAME": "a\nEVIL=1"}, "COMPOSE_PROJECT_NAME may hold"),
    ],
)
def test_prepare_refuses_values_that_compose_would_read_differently(
    variables: dict[str, str], said: str, prepare: Callable[..., Path]
) -> None:
    root = prepare()
    with pytest.raises(AssertionError, match=said):
        prepare("redis", **variables)
    assert "EVIL" not in (root / ".env").read_text("utf-8")


@pytest.mark.process
@pytest.mark.parametrize("url", ["redis://u:p%24%23@[::1]:6379/0?ssl_ca_certs=/a", "redis+cluster://密码@h:1,i:2"])
def test_prepare_keeps_other_addresses_as_they_are(url: str, prepare: Callable[..., Path]) -> None:
    assert _settings(prepare("redis", **_THEIRS | {"REDIS_URL": url}))["REDIS_URL"] == url


@pytest.mark.process
def test_prepare_keeps_an_override_file_that_compose_would_read_by_itself(prepare: Callable[..., Path]) -> None:
    (prepare() / "docker-compose.override.yml").write_text("services: {}\n", encoding="utf-8")
    assert _settings(prepare("demo"))["COMPOSE_FILE"].endswith(":docker-compose.override.yml")


@pytest.mark.process
def test_prepare_takes_the_password_of_a_redis_that_is_there(prepare: Callable[..., Path]) -> None:
    prepare()
    root = prepare("join", **_THEIRS, REDIS_PASSWORD="theirs & \\ 'x'")
    assert (root / "secrets/redis_bridge_password.txt").read_text("utf-8") == "theirs & \\ 'x'\n"
    assert _settings(root)["REDIS_PASSWORD_FILE"] == "/run/secrets/redis_bridge_password"
    assert "theirs &" not in (root / ".env").read_text("utf-8")


@pytest.mark.process
def test_a_second_copy_has_a_name_ports_and_images_of_its_own(prepare: Callable[..., Path]) -> None:
    first = _settings(prepare(COMPOSE_PROJECT_NAME="one"))
    names = (
        "COMPOSE_PROJECT_NAME",
        "AIVTUBER_TAG",
        "AIVTUBER_REDIS_PORT",
        "AIVTUBER_BRIDGE_PORT",
        "AIVTUBER_MODEL_PORT",
    )
    second = _settings(prepare(COMPOSE_PROJECT_NAME="two"))
    assert all(first[name] != second[name] for name in names)
    assert len({second[name] for name in names[2:]}) == 3
    assert all(20000 <= int(second[name]) < 30000 for name in names[2:])
    assert _settings(prepare()) == second


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["everything"], "prepare: knows no 'everything'; takes one of whole, demo, dev, join, redis"),
        (["demo", "join"], "prepare: takes one of whole, demo, dev, join, redis"),
        (["join"], "prepare: join needs AIVTUBER_NETWORK"),
    ],
)
def test_prepare_refuses_what_it_cannot_do_in_one_sentence(
    words: list[str], sentence: str, prepare: Callable[..., Path]
) -> None:
    program = prepare() / "deploy/prepare"
    before = _settings(program.parents[1])
    done = subprocess.run([program, *words], env={"PATH": "/usr/bin:/bin"}, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(sentence)
    assert _settings(program.parents[1]) == before


@pytest.mark.process
def test_folders_belong_to_the_user_that_the_settings_name(prepare: Callable[..., Path]) -> None:
    """Also where the first call was that user's, and a later one is root's."""
    root = prepare()
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    settings = (root / ".env").read_text("utf-8")
    (root / ".env").write_text(re.sub(r"^(AIVTUBER_.ID)=.*", r"\1=4242", settings, flags=re.MULTILINE), "utf-8")
    prepare()
    owned = [root / "secrets", *(root / "secrets").iterdir(), root / "data/letta/pgdata", root / "data/redis"]
    assert {path.stat().st_uid for path in owned} == {4242}
    assert not any(path.stat().st_mode & 0o077 for path in owned)
    assert (root / "deploy/redis/users.acl").stat().st_mode & 0o044 == 0o044


@pytest.mark.process
@pytest.mark.parametrize("content", ["Db-1\r\n", "\ufeffDb-1\n", "\nDb-1\n", "Db\n-1"])
def test_prepare_refuses_a_database_password_that_is_read_in_two_ways(
    content: str, prepare: Callable[..., Path]
) -> None:
    file = prepare() / "secrets/database_password.txt"
    file.write_bytes(content.encode())
    with pytest.raises(AssertionError, match=r"database_password\.txt has to be one line"):
        prepare()
    assert file.read_bytes() == content.encode()
    file.write_text("Db $1 '\"#`\\é密\n\n", encoding="utf-8")
    prepare()


@pytest.mark.process
def test_prepare_makes_an_empty_secret_anew(prepare: Callable[..., Path]) -> None:
    file = prepare() / "secrets/redis_password.txt"
    file.write_text(" \r\n", encoding="utf-8")
    prepare()
    assert len(file.read_text("utf-8").strip()) == 64


@pytest.mark.process
@pytest.mark.parametrize("lost", ["database_password", "letta_encryption_key"])
def test_prepare_makes_no_new_password_beside_data_that_has_the_former_one(
    lost: str, prepare: Callable[..., Path]
) -> None:
    root = prepare()
    (root / "data/letta/pgdata/pgdata").mkdir()
    (root / "data/letta/pgdata/pgdata/PG_VERSION").write_text("16\n", encoding="utf-8")
    prepare()
    (root / f"secrets/{lost}.txt").unlink()
    with pytest.raises(AssertionError, match=rf"pgdata was made with a secrets/{lost}\.txt that is not here"):
        prepare()
    assert not (root / f"secrets/{lost}.txt").exists()


@pytest.mark.process
def test_prepare_says_which_model_answers(prepare: Callable[..., Path], checkout: Path) -> None:
    """The README's two parts, one after the other: the scripted model would answer with the real one's key given."""
    root = prepare("demo", OPENAI_API_KEY="none")

    def said(*words: str) -> str:
        done = subprocess.run([root / "deploy/prepare", *words], capture_output=True, text=True, check=True)
        return done.stdout

    assert "scripted model" not in said()
    (root / "secrets/openai_api_key.txt").write_text("sk-real\n", encoding="utf-8")
    assert "./deploy/prepare whole takes that one" in said()
    assert "./deploy/prepare whole " in (checkout / "README.md").read_text("utf-8")
    (root / "data/letta/pgdata/pgdata").mkdir()
    (root / "data/letta/pgdata/pgdata/PG_VERSION").write_text("16\n", encoding="utf-8")
    assert "begin with an empty memory" in said("whole")
    assert said("whole") == ""


@pytest.fixture
def running(tmp_path: Path) -> Callable[[str], str]:
    """`running("aivtuber /srv/one")`: a PATH whose docker has these containers' projects and folders."""

    def make(projects: str) -> str:
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        (folder / "docker").write_text(f"#!/bin/sh\ngrep . << 'END'\n{projects}\nEND\n", encoding="utf-8")
        (folder / "docker").chmod(0o755)
        return f"{folder}:/usr/bin:/bin"

    return make


@pytest.mark.process
def test_prepare_gives_a_folder_no_second_stack(prepare: Callable[..., Path], running: Callable[[str], str]) -> None:
    """A stack of another name would start a second database on the same data."""
    root = prepare()
    path = running(f"aivtuber {root}\nby-docker-run")
    prepare("demo", PATH=path)
    before = _settings(root)
    for words, given in [((), {"COMPOSE_PROJECT_NAME": "another"}), (("join",), _THEIRS)]:
        with pytest.raises(AssertionError, match="'docker compose --project-name aivtuber down' first"):
            prepare(*words, PATH=path, **given)
        assert _settings(root) == before
    assert _settings(prepare("join", PATH=running(""), **_THEIRS))["REDIS_URL"]
    with pytest.raises(AssertionError, match="'docker compose --project-name aivtuber-letta down' first"):
        prepare("whole", PATH=running(f"aivtuber-letta {root}"))


@pytest.mark.process
def test_prepare_takes_no_other_copys_containers(prepare: Callable[..., Path], running: Callable[[str], str]) -> None:
    """`up` in a second clone would replace the containers of the first."""
    path = running("aivtuber /srv/first\nunrelated /srv/other\nby-docker-run")
    with pytest.raises(AssertionError, match=r"belong to /srv/first, .*COMPOSE_PROJECT_NAME=another"):
        prepare("demo", PATH=path)
    root = prepare("demo", COMPOSE_PROJECT_NAME="another", PATH=path)
    prepare(PATH=path)
    assert _settings(root)["COMPOSE_PROJECT_NAME"] == "another"


@pytest.mark.process
def test_prepare_needs_no_engine(prepare: Callable[..., Path], running: Callable[[str], str], tmp_path: Path) -> None:
    path = running("")
    (tmp_path / "programs/docker").write_text("#!/bin/sh\necho 'no engine' >&2; exit 1\n", encoding="utf-8")
    prepare("demo", PATH=path)
