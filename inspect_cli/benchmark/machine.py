"""What this machine could do: its matrix-product rate, against which a network's operations are held."""

from __future__ import annotations

import platform
import statistics
import time
from pathlib import Path
from typing import Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from inspect_cli.methods.base import Detector

_SIDE: Final = 2048


def matrix_rate(repeats: int = 5) -> float:
    """Return the operations per second of a float32 product of two 2048x2048 matrices, median of ``repeats``.

    A multiplication and an addition count as two. This is what the processor reaches on the kindest of problems;
    convolutions cannot be faster.
    """
    one, other = torch.rand(_SIDE, _SIDE), torch.rand(_SIDE, _SIDE)
    one @ other
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        one @ other
        spent.append(time.perf_counter() - start)
    return float(2 * _SIDE**3 / statistics.median(spent))


def operations_per_tile(detector: Detector) -> int:
    """Return the multiplications and additions that the network's convolutions and products need for one tile."""
    tile = torch.zeros(1, detector.channels, detector.tile_px, detector.tile_px)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        detector.eval().score(tile)
    return int(counter.get_total_flops())


def description() -> str:
    """Return the processor, its threads and the versions that matter."""
    return (
        f"{_processor()}, {torch.get_num_threads()} threads, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown processor"
