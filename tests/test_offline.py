"""Nothing is reported to anybody: not by the program, and not by what it is built on."""

import subprocess
import sys

import pytest

#: Scores with OpenVINO, the engine that reports its use where it can, and tells what reached for the network.
PROGRAM = """
import sys

reached = []
sys.addaudithook(lambda event, _: reached.append(event) if event.startswith(("socket.", "urllib.")) else None)
from inspect_cli.cli import run

code = run(sys.argv[1:])
print("reached", sorted(set(reached)))
sys.exit(code)
"""


def test_scoring_reaches_for_no_network(batch, shared_models, tmp_path):
    pytest.importorskip("openvino")
    home = tmp_path / "home"
    home.mkdir()
    words = ["score", batch / "test", "--material", "foil", "--models", shared_models, "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words), "--engine", "openvino", "--settle-s", "0"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},  # no name of a CI service, where less is reported
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "reached []"
    assert not (home / "intel").exists()
