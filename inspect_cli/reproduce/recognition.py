"""MVT section 4: images told good or defective, F1 and area under ROC on MVTec AD."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from inspect_cli.console import Teller
from inspect_cli.evaluation.metrics import rank_auroc
from inspect_cli.recipe.schema import TilesSpec, TrainingSpec
from inspect_cli.reproduce import papers
from inspect_cli.reproduce.experiment import Case, Row, make_row
from inspect_cli.reproduce.mvtec import Preparation, find_categories
from inspect_cli.reproduce.pipeline import Plan, image_scores, train_and_score
from inspect_cli.reproduce.ranking import best_f1, f1_at

#: Side of the images, which are one tile each (MVT sections 3.1, 3.4.2 and 3.5).
SIDE_PX: Final = 128
CNN_SIDE_PX: Final = 200
#: Variant of `ni-cae` without its noise. The paper found F1 28.10 % lower with noise than without on toothbrush, and
#: 2.56 % lower on transistor (section 4.3).
CLEAN: Final = "ni-cae-clean"
#: Method whose score is a probability, and from which one on it says defective (MVT 3.4.5 leaves that to a sigmoid).
SUPERVISED: Final = "cnn"
EVEN: Final = 0.5


def plan_for(method: str) -> Plan:
    """Return the paper's set-up of a method: the whole image is one tile; gray images and patience 5 for `ni-cae`.

    Patience counts validations, 50 steps apart, where the paper counts epochs. Half of the defective images are kept
    from the test for all methods, since `cnn` learns from them.
    """
    side = CNN_SIDE_PX if method == SUPERVISED else SIDE_PX
    injected = method in ("ni-cae", CLEAN)
    return Plan(
        method="ni-cae" if injected else method,
        tiles=TilesSpec(size_px=side, stride_px=side),
        training=TrainingSpec(patience=5) if injected else TrainingSpec(),
        settings={"noise_share": 0.0} if method == CLEAN else {},
        images=Preparation(side_px=side, gray=injected, learn_defects=True),
    )


class Recognition:
    """F1 and area under ROC of images by their mean score: the copy's error, with the code's rarity for `kd-cae`.

    Kinds of defects are merged into one class, which is the positive one (MVT 3.2). For `cnn` the F1 of its own word,
    a probability of a half or more, stands beside the paper's. For others the paper names no limit, and F1 is that at
    the best one; where most of the images are defective, it is high whatever the scores.
    """

    def inputs(self, data: Path | None) -> dict[str, Path | None]:
        """Return the categories."""
        return find_categories(data)

    def measure(self, case: Case, teller: Teller) -> list[Row]:
        """Train and score a category; see :class:`Experiment`."""
        scored = train_and_score(case, plan_for(case.method), teller)
        good, defective = image_scores(scored.run)
        metrics = {
            "f1": f1_at(EVEN, good, defective) if case.method == SUPERVISED else None,
            "f1_max": best_f1(good, defective),
            "image_auroc": rank_auroc(good, defective),
        }
        return [make_row(case, metrics, papers.MVT.get((case.data, case.method), {}), scored.cost)]


MVTEC_F1: Final = Recognition()
