"""The fault campaigns in short; ``make faults`` runs them at length."""

import os
import subprocess
import sys
from pathlib import Path

from faults.damage import sweep


def campaign(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a campaign in a process of its own: it forks, which this one, with its threads, must not."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "faults", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_killed_or_without_disk_files_are_whole_and_the_rerun_leaves_the_same_and_a_night_loses_no_part():
    words = ["kills", "full", "soak", "--steps", "1", "--times", "1", "--seed", "1", "--parts", "15"]
    found = campaign(*words)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("     0 of 1 ") == 6
    assert found.stdout.count("     0 of 15 ") == 1


def test_a_changed_byte_is_refused_or_changes_only_its_own_pixels(tmp_path):
    tried, faults = sweep(tmp_path, every=83)
    assert tried > 5_000
    assert faults == []
