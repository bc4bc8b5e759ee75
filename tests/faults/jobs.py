"""The commands that are killed, on a small batch and a small material."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from faults.kills import Job

RECIPE = """
material: foil
maps:
  albedo: {files: "{part}_albedo.tif", channels: 1}
  normal: {files: "{part}_normal.tif", channels: 3}
tiles: {size_px: 32, stride_px: 16}
method: {name: cae, settings: {architecture: cifar10, hidden: 32, latent: 8}}
training: {batch: 8, validate_every: 3, budget: 6steps}
scoring: {smooth_sigma_px: 1.5, min_area_px: 4}
"""


def write_world(folder: Path, parts: int = 2) -> None:
    """Write a batch ``X`` (``parts`` good ones to test, as many defective) and the store ``models`` with a recipe."""
    from inspect_cli.sample.batch import write_batch
    from inspect_cli.sample.plan import plan_batch

    write_batch(plan_batch("riblet", 3 + parts, parts, (96, 80), ["albedo", "normal"], 3), folder / "X")
    (folder / "models" / "foil").mkdir(parents=True)
    (folder / "models" / "foil" / "recipe.yaml").write_text(RECIPE)


def train(folder: Path) -> Sequence[str]:
    return ["train", *_common(folder), "--data", str(folder / "X" / "train")]


def train_again(folder: Path) -> Sequence[str]:
    """Go on where there is a checkpoint, else start anew: what the documents tell users to do."""
    checkpoint = folder / "models" / "foil" / "cae" / ".checkpoint"
    return [*train(folder), "--resume"] if checkpoint.is_dir() else train(folder)


def score(folder: Path) -> Sequence[str]:
    return ["score", str(folder / "X" / "test"), *_common(folder), "--engine", "torch", "--settle-s", "0"]


def threshold(folder: Path) -> Sequence[str]:
    run = folder / "X" / "test" / "inspection" / "foil"
    return ["threshold", *_common(folder), "--value", "albedo=0.01", "--value", "normal=0.01", "--apply", str(run)]


def _common(folder: Path) -> list[str]:
    return ["--material", "foil", "--models", str(folder / "models")]


def jobs(world: Path) -> list[Job]:
    """Return the jobs: to train, to score with what was trained, to set limits and judge what was scored.

    ``world`` holds the folders ``untrained``, ``trained`` and ``scored`` that they start from.
    """

    def copy_of(start: str):
        def copy(folder: Path) -> None:
            shutil.copytree(world / start, folder, copy_function=os.link if start == "untrained" else shutil.copy2)

        return copy

    return [
        Job("train", copy_of("untrained"), train, train_again, "models"),
        Job("score", copy_of("trained"), score, score, "X/test/inspection"),
        Job("threshold", copy_of("scored"), threshold, threshold, "."),
    ]
