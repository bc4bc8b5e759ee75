"""What a network is taught to remove: a picture of the corruptions, without any training."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from inspect_cli.errors import UsageError
from inspect_cli.report.gallery import save_corruptions
from inspect_cli.training.batches import MapTraining, training_batch

#: Patches in the picture.
SHOWN: Final = 8


def preview_corruption(job: MapTraining, path: Path) -> None:
    """Write the first training patches of a map, clean and corrupted, as a picture.

    Raises
    ------
    UsageError
        If the method corrupts nothing.
    """
    if job.detector.corruption() is None:
        raise UsageError(f"--preview-corruptions: method {job.detector.name} is trained on patches as they are")
    found: list[list[torch.Tensor]] = [[], [], []]
    for step in range(-(-SHOWN // job.spec.batch)):
        batch = training_batch(job, step, job.detector.tile_px)
        assert batch.corrupted is not None
        assert batch.changed is not None
        for column, values in zip(found, (batch.tiles, batch.corrupted, batch.changed), strict=True):
            column.append(values)
    clean, corrupted, changed = (torch.cat(column)[:SHOWN].cpu().numpy() for column in found)
    save_corruptions(path, clean, corrupted, changed)
