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


def test_what_is_killed_leaves_whole_files_and_the_rerun_what_an_undisturbed_run_leaves():
    found = campaign("kills", "--steps", "1", "--times", "1", "--seed", "1")
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("     0 of 1 ") == 3


def test_a_full_disk_ends_with_code_6_and_loses_nothing():
    found = campaign("full", "--steps", "2", "--times", "1", "--only", "score")
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("     0 of 2 ") == 1


def test_a_changed_byte_is_refused_or_changes_only_its_own_pixels(tmp_path):
    tried, faults = sweep(tmp_path, every=83)
    assert tried > 5_000
    assert faults == []


def test_a_disturbed_night_scores_every_good_part_once_and_names_every_bad_one():
    found = campaign("soak", "--parts", "15")
    assert found.returncode == 0, found.stdout + found.stderr
