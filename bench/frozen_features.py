"""Training time of a detector on pretrained features, the frozen network run by OpenVINO and by torch.

    python bench/frozen_features.py [--steps 60] [--side 512]

Prints seconds of `inspect train --method feature-direct` on generated foil (one map) with both, and the ratio.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: The program, with the engine that it takes on a CPU named.
PROGRAM = """
import sys
from inspect_cli.cli import run
from inspect_cli.engines import choice
choice.fastest_on_cpu = lambda: sys.argv[1]
sys.exit(run(sys.argv[2:]))
"""


def trained_s(engine: str, words: list[str]) -> float:
    """Return how long a training takes."""
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", PROGRAM, engine, *words], capture_output=True, check=False)
    if ended.returncode not in (0, 9):
        sys.exit(ended.stderr.decode())
    return time.monotonic() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--side", type=int, default=512, help="pixels of an image along each side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        batch, models = Path(scratch) / "batch", Path(scratch) / "models"
        size = f"{options.side}x{options.side}"
        sample = ["sample", "riblet", "--out", str(batch), "--parts", "8", "--size", size, "--maps", "albedo"]
        subprocess.run([sys.executable, "-m", "inspect_cli", *sample], check=True, capture_output=True)
        words = ["train", "-m", "riblet", "--method", "feature-direct", "--maps", "albedo", "--models", str(models)]
        words += ["--data", str(batch / "train"), "--budget", f"{options.steps}steps"]
        seconds = {}
        for engine in ("openvino", "torch"):
            seconds[engine] = trained_s(engine, words)
            print(f"frozen network by {engine}: {seconds[engine]:.1f} s", flush=True)
    print(f"torch over openvino {seconds['torch'] / seconds['openvino']:.2f}")


if __name__ == "__main__":
    main()
