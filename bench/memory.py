"""Peak memory of ``inspect score``: flat in image size and number of parts, and a file of 2 gigapixels.

Scores generated riblet albedo with the shipped network, in processes of its own, with limits that nothing reaches,
and prints the peak of each over that of the smallest, and over the limits that are promised. The file of 2 gigapixels
is scored by a process that may not have more than 2 GB of data (RLIMIT_DATA), at stride 128.

Usage: ``python bench/memory.py [--engine openvino,torch] [--gigapixels 2] [--out bench/memory.csv]``
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from inspect_cli.benchmark.speed import one_map, write_map
from inspect_cli.material.bundle import find_bundle, write_manifest
from inspect_cli.material.materials import find_material

#: Megapixels of one part, and numbers of parts of 20 megapixels.
SIZES = {20: (5496, 3672), 80: (10992, 7344), 320: (21984, 14688)}
PARTS = (10,)
PROMISED_MB = {"openvino": 900, "torch": 1300}
CHILD_LIMIT_BYTES = 2_000_000_000
COLUMNS = (
    "engine",
    "parts",
    "width_px",
    "height_px",
    "stride_px",
    "seconds",
    "peak_mb",
    "over_smallest",
    "over_promised",
)


def store_of_one_map(folder: Path) -> None:
    """Copy the shipped material as one of albedo alone, with limits that nothing reaches."""
    material = find_material("riblet")
    bundle = one_map(find_bundle(material.folder, "cae"), "albedo")
    target = folder / "riblet"
    shutil.copytree(material.folder, target)
    recipe = yaml.safe_load((target / "recipe.yaml").read_text())
    recipe["maps"] = {"albedo": recipe["maps"]["albedo"]}
    (target / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    write_manifest(target / "cae", bundle.manifest)


def score(batch: Path, models: Path, engine: str, stride: int, limit: int | None = None) -> tuple[float, float]:
    """Score a batch in a process of its own; return seconds and peak memory in MB."""
    words = ["score", str(batch), "--material", "riblet", "--models", str(models), "--engine", engine]
    command = [sys.executable, "-m", "inspect_cli", *words, "--stride", str(stride), "--settle-s", "0", "--force"]

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=limited)
    assert child.stderr is not None
    told = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"scoring ended with {child.returncode}:\n{told}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of inspect score.")
    parser.add_argument("--engine", default="openvino,torch")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="megapixels of one part")
    parser.add_argument("--stride", type=int, default=128)
    parser.add_argument("--gigapixels", type=float, default=2.0, help="0 leaves the large file out")
    parser.add_argument("--scratch", type=Path, help="where the files are written; 3 GB are needed for 2 gigapixels")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        root = Path(scratch)
        store_of_one_map(root / "models")
        trained = find_bundle(root / "models" / "riblet", "cae").manifest.maps["albedo"]

        def measure(engine: str, parts: int, size: tuple[int, int], limit: int | None = None) -> None:
            batch = root / "batch"
            batch.mkdir()
            write_map(batch / "p0_albedo.tif", *size, trained)
            for number in range(1, parts):
                os.link(batch / "p0_albedo.tif", batch / f"p{number}_albedo.tif")
            seconds, peak = score(batch, root / "models", engine, options.stride, limit)
            shutil.rmtree(batch)
            smallest = next((row["peak_mb"] for row in rows if row["engine"] == engine), peak)
            promised = PROMISED_MB[engine] if limit is None else limit / 1e6
            values = (
                engine,
                parts,
                *size,
                options.stride,
                round(seconds, 1),
                round(peak),
                peak / smallest,
                peak / promised,
            )
            rows.append(dict(zip(COLUMNS, values, strict=True)))
            rows[-1] |= {key: round(rows[-1][key], 3) for key in COLUMNS[-2:]}
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)

        for engine in options.engine.split(","):
            for size in options.sizes.split(","):
                measure(engine, 1, SIZES[int(size)])
            for parts in PARTS:
                measure(engine, parts, SIZES[20])
        if options.gigapixels:
            width = 50_000
            size = (width, round(options.gigapixels * 1e9 / width))
            measure(options.engine.split(",")[0], 1, size, CHILD_LIMIT_BYTES)
    if options.out is not None:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
