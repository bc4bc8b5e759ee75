"""DIR Fig. 13: how low the scores of good pixels are when the network outputs the anomaly itself."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inspect_cli.console import Teller
from inspect_cli.evaluation.run_parts import find_parts
from inspect_cli.images import open_map
from inspect_cli.reproduce import papers
from inspect_cli.reproduce.ablations import direct_with
from inspect_cli.reproduce.experiment import Case, Row, make_row
from inspect_cli.reproduce.mvtec import GOOD, find_categories
from inspect_cli.reproduce.pipeline import train_and_score
from inspect_cli.store.atomic import write_text

#: Below this lie almost all scores of good pixels in the paper.
QUIET: Final = 0.03
BIN_WIDTH: Final = 0.005

Scores = NDArray[np.float32]


class NormalScores:
    """Scores of all pixels of the good test images: mean, quantiles, and the share below ``QUIET``.

    `anomaly` is the paper's network; `reconstruction` outputs the repaired tile, and its score is the distance
    from the input. The paper counts the good pixels of defective images too.
    """

    def inputs(self, data: Path | None) -> dict[str, Path | None]:
        """Return the categories."""
        return find_categories(data)

    def measure(self, case: Case, teller: Teller) -> list[Row]:
        """Train and score a category and write the histogram as CSV; see :class:`Experiment`."""
        scored = train_and_score(case, direct_with({"output": case.method}), teller, test=f"test/{GOOD}")
        scores = _pixel_scores(scored.run)
        write_text(case.work / f"histogram_seed{case.seed}.csv", histogram_csv(scores))
        paper = papers.RECONSTRUCTION_SCORE.get(case.data, {}) if case.method == "reconstruction" else {}
        return [make_row(case, summary(scores), paper, scored.cost)]


def summary(scores: Scores) -> dict[str, float | None]:
    """Return mean, median and 99 % quantile of scores, and the share of them below ``QUIET``."""
    median, high = np.quantile(scores, (0.5, 0.99))
    return {
        "mean": float(scores.mean(dtype=np.float64)),
        "median": float(median),
        "quantile_99": float(high),
        f"below_{QUIET}": float((scores < QUIET).mean()),
    }


def histogram_csv(scores: Scores) -> str:
    """Return the histogram as CSV: from, to, and the share of the pixels; bins of ``BIN_WIDTH`` from 0."""
    counts = np.bincount((scores / BIN_WIDTH).astype(np.int64))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["from", "to", "share"])
    for number, count in enumerate(counts):
        writer.writerow([f"{number * BIN_WIDTH:.3f}", f"{(number + 1) * BIN_WIDTH:.3f}", count / scores.size])
    return text.getvalue()


def _pixel_scores(run: Path) -> Scores:
    """Return the raw scores of all pixels of all images and maps of a run."""
    found = []
    for folder in find_parts(run).finished:
        for path in sorted((folder / "maps").glob("*.tif")):
            with open_map(path) as reader:
                found.append(reader.read().ravel().astype(np.float32))
    return np.concatenate(found)


NORMAL_SCORES: Final = NormalScores()
