"""How threads of torch wait for each other."""

import os
import subprocess
import sys

import pytest

from inspect_cli.processors import sleep_while_waiting


@pytest.fixture
def waiting(monkeypatch):
    """The environment's settings, as they are once the test is over."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    return monkeypatch


def test_threads_sleep_soon(waiting):
    sleep_while_waiting()
    assert int(os.environ["GOMP_SPINCOUNT"]) < 10_000


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")])
def test_what_the_user_sets_holds(waiting, name, value):
    waiting.setenv(name, value)
    sleep_while_waiting()
    assert os.environ[name] == value
    assert os.environ.get("GOMP_SPINCOUNT") == (value if name == "GOMP_SPINCOUNT" else None)


def test_it_is_set_before_torch_is_there():
    program = """
import os, sys
os.environ.pop("GOMP_SPINCOUNT", None)
from inspect_cli.cli import run
assert "torch" not in sys.modules
run(["--version"])
print(os.environ["GOMP_SPINCOUNT"])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == "1000"
