"""A function in a process of its own; this file imports little, as each of those processes does so too."""

import os

import numpy as np
import pytest

from inspect_cli.benchmark.isolated import run_isolated
from inspect_cli.errors import InputError, WorkerError


def _pid_and_memory(megabytes: int) -> int:
    np.ones(megabytes * 125_000).sum()
    return os.getpid()


def _refused() -> None:
    raise InputError("part.tif: is no image")


def _broken() -> None:
    raise ValueError("a fault\nin two lines")


def _killed() -> None:
    os._exit(9)


def test_a_process_of_its_own_tells_its_own_peak_memory():
    small, large = run_isolated(_pid_and_memory, 1), run_isolated(_pid_and_memory, 400)
    assert small.result != os.getpid()
    assert large.peak_mb - small.peak_mb == pytest.approx(400, rel=0.1)


def test_what_a_process_of_its_own_raises_comes_back(capfd):
    with pytest.raises(InputError, match="no image"):
        run_isolated(_refused)
    with pytest.raises(WorkerError, match="ValueError: a fault in two lines"):
        run_isolated(_broken)
    assert "Traceback" not in capfd.readouterr().err
    with pytest.raises(WorkerError, match="exit status 9"):
        run_isolated(_killed)
