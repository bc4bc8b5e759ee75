"""``inspect bench detect``: methods trained for the same time on folders in the MVTec layout, and what they find."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from inspect_cli.batch.run import score_all
from inspect_cli.console import Teller
from inspect_cli.errors import NoInputError, UsageError, nearest
from inspect_cli.evaluation.evaluate import evaluate_run
from inspect_cli.evaluation.run_parts import find_parts
from inspect_cli.images import discover_parts
from inspect_cli.images.infer import infer_maps, training_root
from inspect_cli.material.materials import Material
from inspect_cli.methods.registry import AUTO, method_class, method_names
from inspect_cli.recipe import Budget, Recipe
from inspect_cli.recipe.schema import RoiSpec
from inspect_cli.recipe.template import commented_yaml, new_recipe
from inspect_cli.scoring.model import load_model
from inspect_cli.store.atomic import write_text
from inspect_cli.store.cells import csv_text, plain_cell
from inspect_cli.store.layout import RECIPE, RUN_RECORD
from inspect_cli.store.lock import lock_folder
from inspect_cli.store.part_record import read_part_record
from inspect_cli.training.order import TrainingOrder
from inspect_cli.training.train import train_material

METRICS: Final = ("image_auroc", "pixel_auroc", "pixel_ap", "au_pro", "f1_max")
COLUMNS: Final = (
    "data", "roi", "method", "seed", "budget", "chosen", *METRICS, "train_s", "score_s_per_mpx", "steps",
)  # fmt: skip
_KEY: Final = ("data", "roi", "method", "seed", "budget")
_TEXTS: Final = (*_KEY, "chosen")
#: What the others are compared with.
BASELINE: Final = "patchcore"
FOLDERS: Final = ("train", "test", "ground_truth")
#: Rules that need no more than the images.
ROI_RULES: Final = ("none", "saturated", "dark", "foreground")
#: How long another run that writes a row is waited for.
_WAIT_S: Final = 60.0

Row = dict[str, Any]


@dataclass(frozen=True)
class DetectOrder:
    """What to train on what, for how long; ``out`` holds the table and keeps rows that are measured.

    ``keep`` is where models and runs are left, None if they are only measured.
    """

    folders: Sequence[Path]
    methods: Sequence[str]
    seeds: Sequence[int]
    budget: Budget
    roi: str
    out: Path
    keep: Path | None = None


def check_order(order: DetectOrder) -> None:
    """Raise UsageError for an unknown or supervised method, NoInputError for a folder in another layout."""
    known = [AUTO, *(name for name in method_names() if not method_class(name).supervised)]
    for method in order.methods:
        if method not in known:
            raise UsageError(f"--methods: {method}: {nearest(method, known)}")
    if order.roi not in ROI_RULES:
        raise UsageError(f"--roi: {order.roi}: {nearest(order.roi, list(ROI_RULES))}")
    for folder in order.folders:
        for name in FOLDERS:
            if not (folder / name).is_dir():
                raise NoInputError(f"{folder}: no folder {name}; {', '.join(FOLDERS)} are needed")
    names = [folder.resolve().name for folder in order.folders]
    if len(set(names)) < len(names):
        raise UsageError("two of the folders have the same name, which tells rows apart; rename one")


def measure_detection(order: DetectOrder, teller: Teller, on_row: Callable[[Row], None]) -> list[Row]:
    """Return one row a folder, method and seed; ``on_row`` gets each when it is there, and the table has it.

    Other runs may add rows to the same table meanwhile.

    Raises
    ------
    Stopped
        If a signal ended the scoring; rows that are done are kept.
    """
    path = order.out / "detect.csv"
    rows = []
    for folder in order.folders:
        for method in order.methods:
            for seed in order.seeds:
                key = {
                    "data": folder.resolve().name,
                    "roi": order.roi,
                    "method": method,
                    "seed": str(seed),
                    "budget": str(order.budget),
                }
                kept = None if order.keep is None else order.keep / "-".join(key.values())
                row = next((old for old in _read(path) if _is_same(old, key)), None)
                if kept is not None and not (kept / "run" / RUN_RECORD).is_file():
                    row = None  # measured before, and not kept
                if row is None:
                    teller.say(f"{key['data']}, {method}, seed {seed}")
                    with (
                        tempfile.TemporaryDirectory(prefix="inspect-detect-") if kept is None else nullcontext(kept)
                    ) as work:
                        row = {**key, **_measure(Path(work), folder, method, seed, order, teller)}
                    _add(path, row)
                else:
                    teller.say(f"{key['data']}, {method}, seed {seed}: measured before, taken from {path}")
                rows.append(row)
                on_row(row)
    return rows


def means(rows: Sequence[Row]) -> list[Row]:
    """Return the mean metrics of each method over folders and seeds, best pixel AUROC first."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        columns = {}
        for name in (*METRICS, "train_s", "score_s_per_mpx"):
            values = [float(row[name]) for row in own if row[name] not in ("", None)]
            columns[name] = round(sum(values) / len(values), 4) if values else None
        found.append({"method": method, "rows": len(own), **columns})
    return sorted(found, key=lambda row: -(row["pixel_auroc"] or 0.0))


def as_line(row: Row) -> str:
    """Return a row, or a mean over rows, for people."""
    labels = [str(row[name]) for name in ("data", "method") if name in row]
    if row.get("chosen") not in (None, row["method"]):
        labels.append(f"({row['chosen']})")
    if "seed" in row:
        labels.append(f"seed {row['seed']}")
    values = [f"{name} {float(row[name]):.3f}" for name in METRICS if row[name] not in ("", None)]
    return "  ".join([*labels, *values, f"{row['train_s']} s training", f"{row['score_s_per_mpx']} s/Mpx"])


def _measure(work: Path, folder: Path, method: str, seed: int, order: DetectOrder, teller: Teller) -> Row:
    recipe = _recipe(folder, order.roi, method)
    write_text(work / "model" / RECIPE, commented_yaml(recipe))
    material = Material(recipe, work / "model")
    maps = dict(recipe.maps)
    training = TrainingOrder(
        material=material,
        parts=discover_parts(training_root(folder), maps),
        method=method,
        maps=maps,
        budget=order.budget,
        seed=seed,
        device="auto",
    )
    bundle = train_material(training, teller)
    parts = discover_parts(folder / "test", maps)
    run = work / "run"
    score_all(run, folder / "test", parts, load_model(material, bundle), teller)
    found = evaluate_run(run, folder / "ground_truth")
    trained, tried = bundle.manifest.maps.values(), bundle.manifest.trials
    return {
        "chosen": bundle.manifest.method,
        **{name: None if found[name] is None else round(found[name], 4) for name in METRICS},
        "train_s": round(sum(m.seconds for m in trained) + sum(trial.seconds for trial in tried), 1),
        "score_s_per_mpx": round(_score_s_per_mpx(run, len(maps)), 3),
        "steps": sum(m.steps for m in trained),
    }


def _recipe(folder: Path, roi: str, method: str) -> Recipe:
    """Return the recipe of a new material; the baseline goes without ``usual_map``, which is ours."""
    recipe = new_recipe("bench", infer_maps(training_root(folder)))
    training = recipe.training.model_copy(update={"usual_map": method != BASELINE})
    return recipe.model_copy(update={"roi": RoiSpec.model_validate({"rule": roi}), "training": training})


def _score_s_per_mpx(run: Path, maps: int) -> float:
    """Return the seconds of scoring a megapixel of one map, hashing to writing, without start-up."""
    seconds = megapixels = 0.0
    for part in find_parts(run).finished:
        record = read_part_record(part)
        width, height = record.size_px
        seconds += record.seconds
        megapixels += width * height / 1e6
    return seconds / (megapixels * maps) if megapixels else 0.0


def _is_same(row: Row, other: Row) -> bool:
    """Whether two rows are of the same measurement."""
    return all(row[name] == other[name] for name in _KEY)


def _add(path: Path, row: Row) -> None:
    """Write a row into the table, beside what other runs have written there by now."""
    with lock_folder(path.parent, f"{path}: another run is writing it; choose another --out", _WAIT_S):
        kept = [old for old in _read(path) if not _is_same(old, row)]
        write_text(path, csv_text(COLUMNS, [*kept, row]))


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise UsageError(
                f"{path}: no column {', '.join(missing)}, as another version wrote it; choose another --out"
            )
        return [{name: _value(name, text) for name, text in row.items()} for row in rows]


def _value(name: str, text: str) -> Any:
    """Return a cell of the table as it was before it was written."""
    if name in _TEXTS:
        return plain_cell(text)
    if not text:
        return None
    return int(text) if name == "steps" else float(text)
