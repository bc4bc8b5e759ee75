"""Training time while other programs keep some processors busy, with threads that sleep and with threads that spin.

    python bench/busy_machine.py [--steps 40] [--busy 1]

Prints seconds of `inspect train` on generated foil (one map, `cae`) without and with busy processors, and the ratios.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: What GNU OpenMP does unless told otherwise.
SPINNING = {"GOMP_SPINCOUNT": "300000"}


def trained_s(batch: Path, models: Path, steps: int, environment: dict[str, str]) -> float:
    """Return how long a training takes."""
    started = time.monotonic()
    command = [sys.executable, "-m", "inspect_cli", "train", "-m", "riblet", "--method", "cae", "--maps", "albedo"]
    where = ["--data", str(batch / "train"), "--models", str(models), "--budget", f"{steps}steps"]
    ended = subprocess.run([*command, *where], env=os.environ | environment, capture_output=True, check=False)
    if ended.returncode not in (0, 9):
        sys.exit(ended.stderr.decode())
    return time.monotonic() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--busy", type=int, default=1, help="processors that other programs keep busy")
    options = parser.parse_args()
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as scratch:
        batch = Path(scratch) / "batch"
        sample = ["sample", "riblet", "--out", str(batch), "--parts", "3", "--size", "512x512", "--maps", "albedo"]
        subprocess.run([sys.executable, "-m", "inspect_cli", *sample], check=True, capture_output=True)
        seconds = {}
        for busy in (0, options.busy):
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
            try:
                for how, environment in (("sleep", {}), ("spin", SPINNING)):
                    seconds[busy, how] = trained_s(batch, Path(scratch) / "models", options.steps, environment)
                    print(f"{busy} busy, threads {how}: {seconds[busy, how]:.1f} s", flush=True)
            finally:
                for other in others:
                    other.kill()
    for busy in (0, options.busy):
        print(f"{busy} busy: spin over sleep {seconds[busy, 'spin'] / seconds[busy, 'sleep']:.2f}")


if __name__ == "__main__":
    main()
