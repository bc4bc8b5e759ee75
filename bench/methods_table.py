"""Every method, trained for the same time on the same data, measured by the same commands.

Trains each registered method on each data set with ``inspect train --budget``, scores the test images, evaluates
them and writes one row a method and data set to ``bench/methods.csv``, from which ``docs/methods.md`` takes its
table. Rows that are there already are kept, so the run can be interrupted. Nothing is tuned on these sets: the
settings are each method's defaults, except that wide networks get a width that a CPU can train.

Usage: ``python bench/methods_table.py [--budget 90s] [--threads 1] [--only METHOD,...] --data FOLDER``

``--data`` holds ``aitex/fabric_00`` and ``dagm_class1`` in the MVTec layout; of the riblet sample the albedo counts.
A supervised method learns from every second defective part of each kind and is measured on the others.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from inspect_cli.errors import EXIT_DONE, EXIT_DOUBT
from inspect_cli.methods import method_names
from inspect_cli.methods.registry import method_class
from inspect_cli.store.atomic import write_text
from inspect_cli.store.cells import csv_text
from inspect_cli.store.part_record import read_part_record

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "bench" / "methods.csv"
COLUMNS = (
    "data", "method", "settings", "pixel_auroc", "image_auroc", "au_pro", "pixel_ap", "explained_variance",
    "budget", "threads", "seed", "steps", "train_s", "score_s_per_mpx",
)  # fmt: skip
#: Settings that let a method make enough steps on a CPU.
NARROW = {
    "ni-cae": {"width": 32},
    "ssae": {"width": 16},
    "ssae-contrast": {"width": 16},
    "ssae-ensemble": {"width": 16},
    "direct": {"width": 32},
}
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "aitex fabric_00": ("aitex/fabric_00", {"roi": {"rule": "saturated"}}),
    "dagm_class1": ("dagm_class1", {}),
    "riblet sample": (str(ROOT / "sample_data" / "riblet"), {"maps": {"image": {"files": "{part}_albedo.tif"}}}),
}


def recipe_of(method: str, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "material": "bench",
        "maps": {"image": {"files": "{part}.*"}},
        "method": {"name": method, "settings": NARROW.get(method, {})},
        "training": {"patience": 1000},
        "scoring": {"smooth_sigma_px": 4},
        **more,
    }


def halves(folder: Path, out: Path, pattern: str) -> tuple[Path, Path]:
    """Link every second defective part into ``out/defects``, the other half and the good ones into ``out/test``."""
    defective = 0
    for path in sorted((folder / "test").glob(f"*/{pattern}")):
        kind = path.parent.name
        defective += kind != "good"
        side = "defects" if kind != "good" and defective % 2 == 0 else "test"
        (out / side / kind).mkdir(parents=True, exist_ok=True)
        (out / side / kind / path.name).symlink_to(path.resolve())
    return out / "test", out / "defects"


def inspect(threads: int, *arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "inspect_cli", *arguments]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode not in (EXIT_DONE, EXIT_DOUBT):  # that a method learns little is for the table to tell
        sys.exit(f"{' '.join(arguments)}: ended with {done.returncode}")
    return done.stdout


def megapixels(run: Path) -> float:
    sizes = [read_part_record(path.parent).size_px for path in run.rglob("part.json")]
    return sum(width * height for width, height in sizes) / 1e6


def measure(name: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    place, more = SETS[name]
    folder = options.data / place
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        (work / "models" / "bench").mkdir(parents=True)
        recipe = recipe_of(method, more)
        (work / "models" / "bench" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        common = ["--material", "bench", "--models", str(work / "models")]
        test, defects = folder / "test", []
        if method_class(method).supervised:
            test, labelled = halves(folder, work, recipe["maps"]["image"]["files"].replace("{part}", "*"))
            defects = ["--defects", str(labelled), "--truth", str(folder / "ground_truth")]
        train = ["train", *common, "--data", str(folder / "train"), "--budget", options.budget, *defects]
        manifest = json.loads(inspect(options.threads, *train, "--seed", str(options.seed), "--json"))
        start = time.perf_counter()
        inspect(options.threads, "score", str(test), *common, "--out", str(work / "run"))
        score_s = time.perf_counter() - start
        found = json.loads(
            inspect(options.threads, "evaluate", str(work / "run"), "--truth", str(folder / "ground_truth"), "--json")
        )
        area = megapixels(work / "run")
        shutil.rmtree(work / "run")
    maps = manifest["maps"].values()
    explained = [m["explained_variance"] for m in maps if m["explained_variance"] is not None]
    return {
        "data": name,
        "method": method,
        "settings": json.dumps(NARROW.get(method, {})),
        "explained_variance": min(explained) if explained else None,
        "budget": options.budget,
        "threads": options.threads,
        "seed": options.seed,
        "steps": sum(m["steps"] for m in maps),
        "train_s": round(sum(m["seconds"] for m in maps), 1),
        "score_s_per_mpx": round(score_s / area / len(maps), 2),
        **{key: None if found[key] is None else round(found[key], 4) for key in COLUMNS[3:7]},
    }


def _conditions(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["budget"], str(row["threads"]), str(row["seed"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and measure every method on every data set.")
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default=",".join(method_names()))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = list(csv.DictReader(TABLE.open())) if TABLE.is_file() else []
    conditions = options.budget, str(options.threads), str(options.seed)
    done = {(row["data"], row["method"]) for row in rows if _conditions(row) == conditions}
    rows = [row for row in rows if _conditions(row) == conditions]  # the table has one budget, the docs say which
    for name in SETS:
        for method in options.only.split(","):
            if (name, method) in done:
                continue
            rows.append(measure(name, method, options))
            print("  ".join(f"{key} {rows[-1][key]}" for key in COLUMNS), flush=True)
            write_text(TABLE, csv_text(COLUMNS, rows))


if __name__ == "__main__":
    main()
