from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from letta_server import hardening

SECRETS: Final = {
    "OPENAI_API_KEY": "sk-canary-1",
    "ANTHROPIC_API_KEY": "sk-canary-2",
    "LETTA_ENCRYPTION_KEY": "canary-3",
    "LETTA_SERVER_PASSWORD": "canary-4",
    "AWS_SECRET_ACCESS_KEY": "canary-5",
}
LOOK: Final = '''
def look() -> str:
    """Look around."""
    import os
    return repr(dict(os.environ))
'''
EVALUATE: Final = """
import contextlib
from letta_server import hardening
hardening.install(full_api=True)
from letta.functions.ast_parsers import coerce_dict_args_by_annotations as coerce
hostile = {"a": "__import__('pathlib').Path('evaluated').touch()"}
with contextlib.suppress(ValueError):  # "Unsupported annotation", which Letta's callers expect
    coerce({"a": "1"}, hostile, allow_unsafe_eval=True)
print(coerce({"a": "[1, 2]"}, {"a": "list[int]"}, allow_unsafe_eval=True))
"""


def test_tool_gets_no_variable_that_may_be_secret() -> None:
    given = SECRETS | {
        "PATH": "/bin",
        "LC_ALL": "C.UTF-8",
        "HTTPS_PROXY": "http://me:secret@proxy",
        "LETTA_PG_URI": "x",
    }
    assert hardening.tool_environment(given) == {"PATH": "/bin", "LC_ALL": "C.UTF-8"}


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_process_is_closed_to_inspection_by_its_user() -> None:
    program = (
        "import ctypes; from letta_server import hardening; hardening.forbid_inspection(); "
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"  # PR_GET_DUMPABLE
    )
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "0\n"


@pytest.mark.letta
@pytest.mark.integration
@pytest.mark.xdist_group("letta-server")
def test_annotation_is_not_evaluated(run_with_letta: Callable[..., Any], tmp_path: Path) -> None:
    ran = run_with_letta(EVALUATE, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "{'a': [1, 2]}"
    assert not (tmp_path / "evaluated").exists()


@pytest.mark.letta
@pytest.mark.integration
@pytest.mark.xdist_group("letta-server")
def test_tool_sees_no_secret_and_image_address_is_not_fetched(
    letta_server: Any, postgres: Any, database: str, model: Any, ready: Any
) -> None:
    settings = postgres.variables(database, OPENAI_BASE_URL=model.url, LETTA_SERVER_FULL_API="true", **SECRETS)
    address = ready(letta_server.start("run", "--port", "0", settings=settings))
    headers = {"Authorization": f"Bearer {SECRETS['LETTA_SERVER_PASSWORD']}"}
    with (
        httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False) as letta,
        socket.create_server(("127.0.0.1", 0)) as elsewhere,
    ):
        ran = letta.post("/v1/tools/run", json={"source_code": LOOK, "args": {}, "name": "look"}).json()
        assert ran["status"] == "success", ran
        assert "'PATH'" in ran["tool_return"]
        secrets = (*SECRETS.values(), settings["LETTA_PG_PASSWORD"])
        assert not [secret for secret in secrets if secret in ran["tool_return"]]

        agent = letta.post("/v1/agents/", json={"name": "one", "model": "openai-proxy/gpt-4o-mini"}).json()["id"]
        url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/picture.png"
        image = {"type": "image", "source": {"type": "url", "url": url}}
        message = {"role": "user", "content": [{"type": "text", "text": "look"}, image]}
        refused = letta.post(f"/v1/agents/{agent}/messages", json={"messages": [message]})
        assert refused.status_code == 400, refused.text
        assert "fetches no addresses" in refused.json()["detail"]
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert not model.asked.is_set()
