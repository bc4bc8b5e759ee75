"""CMP Tables 5 and 6: one class of small images is normal, each other class is told from it by the copy's error."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from inspect_cli.console import Teller
from inspect_cli.engines import TorchEngine, choose_device
from inspect_cli.errors import InputError
from inspect_cli.evaluation.metrics import rank_auroc
from inspect_cli.images.values import Preprocess, ValueRange
from inspect_cli.methods import build_detector
from inspect_cli.recipe.schema import TrainingSpec
from inspect_cli.reproduce import papers
from inspect_cli.reproduce.experiment import Case, Cost, Row, make_row
from inspect_cli.reproduce.papers import Numbers
from inspect_cli.reproduce.ranking import average_precision
from inspect_cli.reproduce.small_data import (
    Images,
    LabelledImages,
    Source,
    digits_file,
    pictures_place,
    read_digits,
    read_pictures,
)
from inspect_cli.training.batches import MapTraining
from inspect_cli.training.budget import MapBudget
from inspect_cli.training.loop import StepReport, train_map

#: Side of the networks' input; smaller images get a black border.
SIDE_PX: Final = 32
#: Of the training images, to choose the best weights by.
VALIDATION_SHARE: Final = 0.1
#: The paper gives neither batch nor step size. Training lasts the whole budget, as there.
TRAINING: Final = TrainingSpec(batch=32, learning_rate=2e-3, validate_every=100, patience=10**6)
#: Images scored at once.
_CHUNK: Final = 1000


@dataclass(frozen=True)
class SmallImages:
    """Areas under ROC and PR curve of each other class against the normal one.

    The score of an image is its mean squared error over all pixels of the network's input and all channels
    (CMP eq. 2). Images of the other class are the positive ones; the paper does not say which are.

    Attributes
    ----------
    data, architecture
        Name of the data set, and of the network (CMP Table 1 or 2; r = 100, n_z = 20).
    values
        Pixel values that become 0 and 1 at the network's input.
    find, read
        The data set at a path, and its images.
    paper
        (method, class) -> the paper's numbers.
    """

    data: str
    architecture: str
    values: ValueRange
    find: Callable[[Path], Path]
    read: Callable[[Path], LabelledImages]
    paper: Mapping[tuple[str, str], Numbers]

    def inputs(self, data: Path | None) -> dict[str, Path | None]:
        """Return the one data set; see :class:`Experiment`."""
        return {} if data is None else {self.data: self.find(data)}

    def measure(self, case: Case, teller: Teller) -> list[Row]:
        """Train a method on the normal class and measure it on the test images; see :class:`Experiment`."""
        assert case.path is not None
        images = self.read(case.path)
        with teller.progress(f"{case.method:>10}") as update:
            job, cost = self._train(case, images.train, _shown_on(update))
        scores = {name: _scores(job, test) for name, test in images.test.items()}
        good = scores.pop(images.normal)
        return [
            make_row(
                case,
                {"roc_auc": rank_auroc(good, other), "pr_auc": average_precision(good, other)},
                self.paper.get((case.method, name), {}),
                cost,
                {"class": name},
            )
            for name, other in sorted(scores.items())
        ]

    def _train(self, case: Case, images: Images, report: StepReport) -> tuple[MapTraining, Cost]:
        pixels = _padded(images)
        order = np.random.default_rng(case.seed).permutation(len(pixels))
        held = max(1, round(VALIDATION_SHARE * len(pixels)))
        channels = pixels.shape[3] if pixels.ndim == 4 else 1
        torch.manual_seed(case.seed)
        job = MapTraining(
            detector=build_detector(case.method, channels, SIDE_PX, {"architecture": self.architecture}),
            preprocess=Preprocess(self.values, (0.0,) * channels, "uint8"),
            train=Source(pixels[order[held:]], case.seed),
            validation=Source(pixels[order[:held]], case.seed + 1),
            spec=TRAINING,
            budget=MapBudget.of(case.budget, 1),
            seed=case.seed,
            device=choose_device("auto"),
            checkpoint=case.work / "checkpoint",
            fingerprint=f"{case.table} {case.method} {case.seed}",
        )
        with _removed(case.work):
            state = train_map(job, report)
        return job, Cost(state.spent_s, state.step)


#: Digits are nearly black. With 0 to 255 at 0 to 1 the first steps often drive the output's sigmoid so far towards
#: 0 that it never comes back, whatever the step size. At 1/4 to 3/4 it stays alive; errors are a quarter of what
#: they were, in the same order.
MNIST: Final = SmallImages("mnist", "mnist", ValueRange(-127.5, 382.5), digits_file, read_digits, papers.MNIST)
CIFAR10: Final = SmallImages(
    "cifar10", "cifar10", ValueRange(0.0, 255.0), pictures_place, read_pictures, papers.CIFAR10
)


def _padded(images: Images) -> Images:
    """Return images (n, h, w[, 3]) in the middle of black squares of ``SIDE_PX``."""
    height, width = images.shape[1:3]
    if max(height, width) > SIDE_PX:
        raise InputError(f"images are {width}x{height} px; this table's networks take {SIDE_PX} px at most")
    top, left = (SIDE_PX - height) // 2, (SIDE_PX - width) // 2
    border = [(0, 0), (top, SIDE_PX - height - top), (left, SIDE_PX - width - left)]
    return np.pad(images, border + [(0, 0)] * (images.ndim - 3))


def _scores(job: MapTraining, images: Images) -> list[float]:
    """Return the mean squared error of each image."""
    engine = TorchEngine(job.detector, job.device, batch=_CHUNK)
    means: list[float] = []
    for at in range(0, len(images), _CHUNK):
        tiles = job.preprocess.to_network(_padded(images[at : at + _CHUNK]))
        means += engine.score(tiles).mean(axis=(1, 2), dtype=np.float64).tolist()
    return means


def _shown_on(update: Callable[[float, str], None]) -> StepReport:
    def report(progress: float, step: int, loss: float, val_loss: float | None, steps_per_s: float) -> None:  # noqa: ARG001
        update(progress, f"step {step}  loss {loss:.5f}  {steps_per_s:.1f} steps/s")

    return report


@contextmanager
def _removed(folder: Path) -> Iterator[None]:
    """Remove a folder of checkpoints at the end, whatever that is."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
