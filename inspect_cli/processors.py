"""How many processors this process may use, and how its threads wait for each other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: Rounds that a thread of torch (GNU OpenMP) waits for the others before it sleeps, of 300,000 by default.
_ROUNDS: Final = "1000"


def usable_processors(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many processors this process may use: fewer than there are under taskset or in a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limit.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, max(1, round(int(quota) / int(period))))


def sleep_while_waiting() -> None:
    """Let threads of torch that wait for each other soon sleep; to be called before torch is imported.

    A thread that spins while it waits takes the processor from the thread that it waits for, where other programs
    run too: training takes 1.2 to 3 times as long then. What the user sets in the environment holds.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _ROUNDS)
