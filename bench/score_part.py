"""Time and peak memory of ``inspect score`` on full-size parts.

Scores parts of albedo and normals with freshly initialised networks (weights do not matter for speed) and prints the
whole time over the pure network time of the same number of tiles, and the peak memory over the limit of 1.5 GB.
Usage: ``python bench/score_part.py [PARTS] [WIDTHxHEIGHT]``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inspect_cli.engines import Hardware, make_engine
from inspect_cli.errors import EXIT_DONE, EXIT_DOUBT
from inspect_cli.methods import build_detector
from inspect_cli.tiles import Grid

MEMORY_LIMIT_GB = 1.5
SAMPLE_TILES = 512


def network_seconds(channels: int, tiles: int) -> float:
    engine = make_engine(build_detector("cae", channels, 128, {}), Hardware("cpu"))  # that which `score` takes
    batch = np.random.default_rng(0).random((SAMPLE_TILES, channels, 128, 128), dtype=np.float32)
    engine.score(batch[:64])
    start = time.perf_counter()
    engine.score(batch)
    return (time.perf_counter() - start) * tiles / SAMPLE_TILES


def run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "inspect_cli", *arguments], check=False, stdout=subprocess.DEVNULL)
    if done.returncode not in (EXIT_DONE, EXIT_DOUBT):  # speed does not depend on what a network learnt
        sys.exit(f"{arguments[0]} ended with {done.returncode}")


def score(root: Path) -> tuple[list[dict[str, Any]], float, float]:
    """Score the batch in a process of its own; return its lines, seconds and peak memory in GB."""
    command = [sys.executable, "-m", "inspect_cli", "score", f"{root}/X/test", "--material", "riblet", "--json"]
    start = time.perf_counter()
    with (root / "lines").open("w") as lines:
        child = subprocess.Popen([*command, "--models", f"{root}/models"], stdout=lines, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit("scoring failed")
    whole_s = time.perf_counter() - start
    found = [json.loads(line) for line in (root / "lines").read_text().splitlines()]
    return found, whole_s, usage.ru_maxrss / 2**20


def main(parts: int, size: str) -> None:
    width, height = (int(side) for side in size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run("sample", "riblet", "--out", f"{root}/X", "--parts", str(parts + 1), "--defective", str(parts),
            "--size", size, "--maps", "albedo,normal")  # fmt: skip
        run("train", "--material", "riblet", "--models", f"{root}/models", "--data", f"{root}/X/train",
            "--budget", "60steps")  # fmt: skip
        lines, whole_s, peak_gb = score(root)
    tiles = len(Grid(height, width, 128, 64))
    network_s = sum(network_seconds(channels, tiles) for channels in (1, 3)) * len(lines)
    phases = {name: sum(line["timing_s"][name] for line in lines) / len(lines) for name in lines[0]["timing_s"]}
    print(f"{len(lines)} part(s) of {size}, albedo and normal, stride 64: {whole_s:.1f} s with start-up")
    print("per part: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases.items()))
    print(f"end to end over pure network time: {whole_s / network_s:.2f} (network {network_s:.1f} s)")
    print(f"peak memory over {MEMORY_LIMIT_GB} GB: {peak_gb / MEMORY_LIMIT_GB:.2f} ({peak_gb:.2f} GB)")


if __name__ == "__main__":
    torch.manual_seed(0)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1, sys.argv[2] if len(sys.argv) > 2 else "5496x3672")
