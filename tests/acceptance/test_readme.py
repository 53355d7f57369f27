"""The producer in either README, run as it stands there, gets a reply."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.letta]

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("readme", "fact", "answer"),
    [("README.md", "My name is Ada.", "Your name is Ada."), ("README.zh-CN.md", "我叫小明", "你叫小明。")],
)
def test_the_readmes_producer_gets_a_reply(readme, fact, answer, redis_url, letta, bridge_factory):
    bridge_factory(redis_url, letta)
    text = (_ROOT / readme).read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert program.count("redis://127.0.0.1:16379/0") == 1
    program = program.replace("redis://127.0.0.1:16379/0", redis_url)
    (question,) = re.findall(r'"content": "(.*?)"', program)

    def said(content):
        output = subprocess.run(
            [sys.executable, "-c", program.replace(question, content)],
            capture_output=True,
            text=True,
            check=True,
            timeout=90,
        ).stdout
        return json.loads(output)

    said(fact)
    assert said(question) == {"text": answer, "source": "letta"}
