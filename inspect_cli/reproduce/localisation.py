"""SSAE Tables 2 to 4 and DIR Table I: areas under ROC of pixels and images on MVTec AD."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from inspect_cli.console import Teller
from inspect_cli.evaluation.evaluate import evaluate_run
from inspect_cli.recipe.schema import ScoringSpec, TilesSpec, TrainingSpec
from inspect_cli.reproduce import papers
from inspect_cli.reproduce.experiment import Case, Row, make_row
from inspect_cli.reproduce.mvtec import MASKS, Preparation, find_categories
from inspect_cli.reproduce.papers import Numbers
from inspect_cli.reproduce.pipeline import Plan, train_and_score

#: No early stop: training lasts the whole budget. The weights that are kept are those of the least validation loss,
#: on a fifth of the good images, as in every training here; the paper keeps the last ones.
NEVER: Final = 10**6
#: DIR section IV: 256 px images, 65 px tiles with about half overlap, batch 64, maps as they are. The method takes
#: half of the step size, whose peak is the paper's 2e-4; it rises and falls, and tiles are cut anew in each step. The
#: usual loss is of pixels: the paper's needs VGG-11's weights.
DIRECT_PLAN: Final = Plan(
    method="direct",
    tiles=TilesSpec(size_px=65, stride_px=33),
    training=TrainingSpec(batch=64, learning_rate=4e-4, patience=NEVER),
    scoring=ScoringSpec(smooth_sigma_px=0),
    images=Preparation(side_px=256),
)
#: Paper's numbers by method, then category.
PAPER: Final[dict[str, dict[str, Numbers]]] = {
    "ssae": papers.SSAE,
    "ssae-contrast": papers.SSAE_CONTRAST,
    "direct": papers.DIRECT,
}


def plan_for(method: str, category: str) -> Plan:
    """Return the paper's set-up of a method.

    SSAE section 4.1: images of 512 px scored whole, Adam 1e-4; turned and mirrored where the category is a texture
    (the paper: depending on the category). The paper took objects at 256, 384 or 512 px without saying which; here
    all have 512 px. It trains on patches that grow; here they grow to 128 px, and the taps of dilated kernels that
    reach beyond the inner map of such a tile are left out.
    """
    if method == "direct":
        return DIRECT_PLAN
    return Plan(
        method=method,
        tiles=TilesSpec(size_px=128, stride_px=64, whole=True),
        training=TrainingSpec(
            learning_rate=1e-4,
            augment="turn" if category in papers.TEXTURES else "none",
        ),
        images=Preparation(side_px=512),
    )


class Localisation:
    """Areas under ROC over all pixels of the test images, and over the images' largest scores."""

    def inputs(self, data: Path | None) -> dict[str, Path | None]:
        """Return the categories."""
        return find_categories(data)

    def measure(self, case: Case, teller: Teller) -> list[Row]:
        """Train and score a category; see :class:`Experiment`."""
        paper = PAPER.get(case.method, {}).get(case.data, {})
        return measure_maps(case, plan_for(case.method, case.data), paper, teller)


def measure_maps(case: Case, plan: Plan, paper: Numbers, teller: Teller) -> list[Row]:
    """Train a plan on a category, score its test images, and return the row of both areas under ROC."""
    scored = train_and_score(case, plan, teller)
    found = evaluate_run(scored.run, scored.images / MASKS)
    metrics = {name: found[name] for name in ("pixel_auroc", "image_auroc")}
    return [make_row(case, metrics, paper, scored.cost)]


MVTEC_AUROC: Final = Localisation()
