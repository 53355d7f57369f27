"""A Prometheus with the shipped configuration and rules, for tests. Debian's package `prometheus` brings it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import httpx

from local_stack.ports import HOST, free_port
from local_stack.processes import Process
from local_stack.programs import CHECKOUT, answers, debian_program

_SHIPPED: Final = CHECKOUT / "deploy" / "prometheus"


class Prometheus(Process):
    """It finds its targets in a file, as by service discovery, and waits a second wherever a rule waits minutes.

    Expressions, with all their limits, are the shipped ones. Their windows need no more than two scrapes to fire; what
    they have seen is over only when it has left them.

    Args:
        directory: its data, configuration and log; made if missing.
        scrape_seconds: between two scrapes, and what one may take. A health check may take two seconds.
        window_seconds: what every window of an expression (``[15m]``) reaches back, so that a test sees it pass; at
            least two scrapes. None leaves the windows as they are shipped.

    Raises:
        MissingPart: Prometheus is not installed.
    """

    def __init__(self, directory: Path, *, scrape_seconds: int = 4, window_seconds: int | None = None) -> None:
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        directory.mkdir(parents=True, exist_ok=True)
        self._targets = directory / "targets.json"
        self.discover([])
        rules = (_SHIPPED / "alerts.yml").read_text(encoding="utf-8")
        rules = re.sub(r"\bfor: \d+m", "for: 1s", rules)
        if window_seconds is not None:
            rules = re.sub(r"\[\d+m\]", f"[{window_seconds}s]", rules)
        (directory / "alerts.yml").write_text(rules, encoding="utf-8")
        config = (_SHIPPED / "prometheus.yml").read_text(encoding="utf-8")
        for name in ("scrape_interval", "scrape_timeout"):
            config = _replaced(rf"{name}: \w+", f"{name}: {scrape_seconds}s", config)
        config = _replaced(r"evaluation_interval: \w+", "evaluation_interval: 500ms", config)
        config = _replaced(
            r"static_configs:\n +- targets: .*", f"file_sd_configs: [{{files: ['{self._targets.resolve()}']}}]", config
        )
        (directory / "prometheus.yml").write_text(config, encoding="utf-8")
        command = [
            debian_program("prometheus", package="prometheus"),
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address={HOST}:{port}",
        ]
        super().__init__("prometheus", command, logs=directory, ready=answers(f"{self.url}/-/ready"))

    def discover(self, urls: Iterable[str]) -> None:
        """Scrape these and no others from now on; what is not among them any more is forgotten, not down."""
        targets = [url.removeprefix("http://") for url in urls]
        new = self._targets.with_suffix(".new")
        new.write_text(json.dumps([{"targets": targets}]), encoding="utf-8")
        new.replace(self._targets)

    def api(self, path: str, **query: str) -> Any:
        """The `data` of an answer of its HTTP API."""
        return httpx.get(f"{self.url}/api/v1/{path}", params=query, timeout=10).raise_for_status().json()["data"]

    def value(self, query: str) -> float | None:
        """The first sample of an expression now; None where there is none."""
        found = self.api("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[str]:
        """Names of the alerts that fire, without the product's own prefix."""
        alerts = self.api("alerts")["alerts"]
        names = {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
        return {name.removeprefix("LettaBridge") for name in names}

    def broken_rules(self) -> dict[str, str]:
        """Rule → why it cannot be evaluated."""
        rules = [rule for group in self.api("rules")["groups"] for rule in group["rules"]]
        return {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")}


def _replaced(pattern: str, replacement: str, text: str) -> str:
    replaced, count = re.subn(pattern, lambda _: replacement, text)
    if count != 1:
        raise ValueError(f"{count} places instead of one match {pattern!r}")
    return replaced
