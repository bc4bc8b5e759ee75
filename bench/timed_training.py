"""A small batch of foil, and how long a training on it takes: for the scripts beside this one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

#: `python` with this runs the program.
MODULE = ("-m", "inspect_cli")


def write_foil(batch: Path, parts: int, side_px: int) -> None:
    """Write a batch of generated foil, albedo alone, square pictures."""
    size = f"{side_px}x{side_px}"
    words = ["sample", "riblet", "--out", str(batch), "--parts", str(parts), "--size", size, "--maps", "albedo"]
    subprocess.run([sys.executable, *MODULE, *words], check=True, capture_output=True)


def trained_s(
    batch: Path,
    method: str,
    steps: int,
    program: Sequence[str] = MODULE,
    environment: Mapping[str, str] | None = None,
) -> float:
    """Return how long a training on a batch takes, start and checks included; ends the script if it fails."""
    words = ["train", "-m", "riblet", "--method", method, "--maps", "albedo", "--models", str(batch / "models")]
    words += ["--data", str(batch / "train"), "--budget", f"{steps}steps"]
    started = time.monotonic()
    command, variables = [sys.executable, *program, *words], os.environ | dict(environment or {})
    ended = subprocess.run(command, env=variables, capture_output=True, check=False)
    if ended.returncode not in (0, 9):
        sys.exit(ended.stderr.decode())
    return time.monotonic() - started
