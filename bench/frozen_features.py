"""Training time of a detector on pretrained features, the frozen network run by OpenVINO and by torch.

    python bench/frozen_features.py [--steps 60] [--side 512]

Prints seconds of `inspect train --method feature-direct` on generated foil (one map) with both, and the ratio.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from timed_training import trained_s, write_foil

#: The program, with the engine that it takes on a CPU named.
PROGRAM = """
import sys
from inspect_cli.cli import run
from inspect_cli.engines import choice
choice.fastest_on_cpu = lambda: sys.argv[1]
sys.exit(run(sys.argv[2:]))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--side", type=int, default=512, help="pixels of an image along each side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        batch = Path(scratch) / "batch"
        write_foil(batch, parts=8, side_px=options.side)
        seconds = {}
        for engine in ("openvino", "torch"):
            seconds[engine] = trained_s(batch, "feature-direct", options.steps, ("-c", PROGRAM, engine))
            print(f"frozen network by {engine}: {seconds[engine]:.1f} s", flush=True)
    print(f"torch over openvino {seconds['torch'] / seconds['openvino']:.2f}")


if __name__ == "__main__":
    main()
