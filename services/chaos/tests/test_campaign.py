"""Runs over rigs: what breaks off is told as broken, and the others are tried all the same."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from bridge_chaos import campaign
from bridge_chaos.campaign import Campaign, Run
from bridge_chaos.fault import Fault
from bridge_chaos.letta_store import LettaStore
from bridge_chaos.promises import Verdict
from local_stack.errors import StartFailed


@pytest.fixture
def told(monkeypatch):
    """`told(starts, runs)`: what a campaign over the faults a, b and c tells; None in either list is a success."""

    def run(starts, runs):
        class Rig:
            def __init__(self, _lab, _shape):
                pass

            def __enter__(self):
                raise_if(starts.pop(0))
                return self

            def __exit__(self, *_):
                pass

        def run_once(_rig, fault, seed):
            raise_if(runs.pop(0))
            return Run(fault.name, seed, True, Verdict(), [], 0.0)

        monkeypatch.setattr(campaign, "Rig", Rig)
        monkeypatch.setattr(campaign, "run_once", run_once)
        faults = [Fault(name, name, lambda _scene: None) for name in "abc"]
        lines = []
        Campaign(None, faults, 1, lambda run: lines.append((run.fault, run.verdict.accounts))).run(None)
        assert starts == runs == []
        return lines

    return run


def raise_if(error):
    if error is not None:
        raise error


def test_a_run_that_breaks_off_takes_its_rig_with_it(told):
    assert told([None, None], [None, RuntimeError("no"), None]) == [
        ("a", []),
        ("b", ["the run broke off: RuntimeError('no')"]),
        ("c", []),
    ]


def test_a_rig_that_does_not_start_breaks_one_run(told):
    assert told([StartFailed("no"), None], [None, None]) == [
        ("a", ["the run broke off: StartFailed('no')"]),
        ("b", []),
        ("c", []),
    ]


def test_servers_that_make_the_file_at_once_wait_for_each_other(tmp_path):
    file = tmp_path / "letta.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE begun (by TEXT)")
    other.execute("BEGIN IMMEDIATE")
    released = threading.Timer(0.1, other.execute, ["ROLLBACK"])
    released.start()
    store = LettaStore(file)
    assert store.agents(["bridge"]) == []
    store.close()
    released.join()
    other.close()
