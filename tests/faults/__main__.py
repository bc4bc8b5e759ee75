"""``python -m faults``: the campaigns at length, a table of what was broken and what was lost."""

from __future__ import annotations

import argparse
import csv
import importlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a forked child cannot use the threads of its parent

import cv2
import torch
from helpers import TRAINED

from faults.damage import sweep
from faults.jobs import jobs, score, train, write_world
from faults.kills import Undisturbed, campaign, run_forked, undisturbed
from faults.soak import soak

COLUMNS = ("promise", "how it was broken", "tried", "lost or wrong", "seed", "what else was seen")
CAMPAIGNS = ("kills", "full", "damage", "soak")
#: Steps of each command that are killed; its other steps are drawn with another seed.
STEPS = {"train": 6, "score": 20, "threshold": 6}
#: What the commands import when they need it: once here, not in each forked child.
LATE = (
    "torch._dynamo",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pyarrow.parquet",
    "inspect_cli.training.train",
    "inspect_cli.batch.parts",
    "inspect_cli.batch.calibrate",
    "inspect_cli.sample.batch",
)
#: How each command is broken off: the promise, and the words for it.
BREAKS = {
    "kills": ("every visible file is whole, and the rerun leaves what an undisturbed run leaves", "SIGKILL"),
    "full": ("ends with code 6, files are whole, and the rerun leaves what an undisturbed run leaves", "disk full"),
}


def prepared(scratch: Path) -> Path:
    """Make the folders that the campaigns start from."""
    world = scratch / "world"
    world.mkdir()
    child = os.fork()
    if child == 0:
        write_world(world / "untrained")
        os._exit(0)
    os.waitpid(child, 0)
    shutil.copytree(world / "untrained", world / "trained")
    shutil.copytree(world / "untrained", world / "scored")
    if run_forked(train(world / "trained")) not in TRAINED:
        raise SystemExit("the small material cannot be trained")
    shutil.rmtree(world / "scored" / "models")
    shutil.copytree(world / "trained" / "models", world / "scored" / "models")
    if run_forked(score(world / "scored")) != 0:
        raise SystemExit("the small batch cannot be scored")
    return world


def break_rows(
    kind: str, world: Path, scratch: Path, options: argparse.Namespace, usual: dict[str, Undisturbed]
) -> list[dict[str, Any]]:
    """Break each command off at its steps; ``usual`` keeps how each goes undisturbed."""
    promise, how = BREAKS[kind]
    rows = []
    for job in jobs(world):
        if options.only not in (None, job.name):
            continue
        if job.name not in usual:
            place = scratch / "broken" / job.name
            place.mkdir(parents=True)
            usual[job.name] = undisturbed(job, place)
        steps = options.steps or STEPS[job.name]
        times = max(1, options.times // 5) if kind == "full" else options.times
        tally = campaign(job, usual[job.name], times, steps, options.seed, full=kind == "full")
        tell(tally.faults)
        rows.append(
            row(
                f"{job.name}: {promise}",
                f"{how} at {len(tally.attempts)} named steps, {times} times each",
                sum(tally.attempts.values()),
                len(tally.faults),
                options.seed,
            )
        )
    return rows


def damage_row(scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    tried, faults = sweep(scratch, options.every)
    tell(faults)
    return row(
        "an image reads right or is refused by name",
        "one byte of a small TIFF (every layout), PNG or JPEG changed",
        tried,
        len(faults),
        "",
    )


def soak_row(world: Path, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    place = scratch / "soak"
    place.mkdir()
    report = soak(world / "trained", place, options.parts, options.seed)
    tell(report.faults)
    return row(
        "each good part is scored exactly once, each bad one named once",
        f"{report.parts} parts ({report.broken} broken) written in halves while {report.kills} runs were killed",
        report.parts,
        len(report.faults),
        options.seed,
        f"memory from the second to the last third of a run {report.memory_growth:+.1%}, "
        f"open files {report.files_growth:+d}",
    )


def row(promise: str, how: str, tried: int, wrong: int, seed: object, more: str = "") -> dict[str, Any]:
    return dict(zip(COLUMNS, (promise, how, tried, wrong, seed, more), strict=True))


def tell(faults: list[str]) -> None:
    for fault in faults:
        print("FAULT", fault, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("campaigns", nargs="*", help=f"of {', '.join(CAMPAIGNS)}; all if none is named")
    parser.add_argument("--times", type=int, default=10, help="kills at each step; a fifth of that for full disks")
    parser.add_argument("--steps", type=int, help="steps of each command that are killed")
    parser.add_argument("--only", help="the one command to kill")
    parser.add_argument("--every", type=int, default=4, help="every so many bytes of an image are changed")
    parser.add_argument("--parts", type=int, default=200, help="parts of the soak")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="CSV file")
    options = parser.parse_args()
    options.campaigns = options.campaigns or list(CAMPAIGNS)
    if unknown := set(options.campaigns) - set(CAMPAIGNS):
        parser.error(f"unknown: {', '.join(unknown)}")
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for module in LATE:
        importlib.import_module(module)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="inspect-faults-") as temporary:
        scratch = Path(temporary)
        world = prepared(scratch) if {"kills", "full", "soak"} & set(options.campaigns) else scratch
        if "damage" in options.campaigns:
            rows.append(damage_row(scratch, options))
        usual: dict[str, Undisturbed] = {}
        for kind in BREAKS:
            if kind in options.campaigns:
                rows += break_rows(kind, world, scratch, options, usual)
        if "soak" in options.campaigns:
            rows.append(soak_row(world, scratch, options))
    for found in rows:
        print(f"{found['lost or wrong']:>6} of {found['tried']:<7} {found['promise']} ({found['how it was broken']})")
    if options.out is not None:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return 1 if any(found["lost or wrong"] for found in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
