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
from pathlib import Path

from timed_training import trained_s, write_foil

#: What GNU OpenMP does unless told otherwise.
SPINNING = {"GOMP_SPINCOUNT": "300000"}


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
        write_foil(batch, parts=3, side_px=512)
        seconds = {}
        for busy in (0, options.busy):
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
            try:
                for how, environment in (("sleep", {}), ("spin", SPINNING)):
                    seconds[busy, how] = trained_s(batch, "cae", options.steps, environment=environment)
                    print(f"{busy} busy, threads {how}: {seconds[busy, how]:.1f} s", flush=True)
            finally:
                for other in others:
                    other.kill()
    for busy in (0, options.busy):
        print(f"{busy} busy: spin over sleep {seconds[busy, 'spin'] / seconds[busy, 'sleep']:.2f}")


if __name__ == "__main__":
    main()
