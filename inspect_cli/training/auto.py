"""``--method auto``: try what may fit, briefly, and take what finds artificial defects in held-out good parts.

Each candidate is trained for a share of the budget and then shown patches of the validation parts, with and without
artificial defects of kinds that no method is trained with (``corruptions/trial.py``). The measure is the area under
the ROC curve of the pixels, smoothed as in scoring, averaged over kinds and maps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy.ndimage import gaussian_filter

from inspect_cli.corruptions.trial import CHANGED, KINDS, trial_defects
from inspect_cli.engines import TorchEngine
from inspect_cli.errors import ModelError, RecipeError, UsageError
from inspect_cli.evaluation.metrics import ScoreHistogram
from inspect_cli.methods.registry import AUTO, check_whole_images
from inspect_cli.recipe.schema import parse_budget
from inspect_cli.store.atomic import write_text
from inspect_cli.store.manifest import Trial
from inspect_cli.training.batches import MapTraining
from inspect_cli.training.loop import train_map
from inspect_cli.training.order import Shown, Teller, TrainingOrder, closing, open_job, open_order
from inspect_cli.training.sources import Sources

#: What is tried, simplest first: of equally good ones the first is taken. Settings go behind the recipe's; a narrow
#: `direct` makes enough steps in a trial, on a CPU too.
CANDIDATES: Final[dict[str, dict[str, object]]] = {
    "cae": {},
    "feature-ae": {},
    "patchcore": {},
    "direct": {"width": 32},
}
#: Share of a budget in time that all trials together take.
TRIAL_SHARE: Final = 0.4
#: Patches of each kind of defect, and as many without.
PATCHES: Final = 48
#: Step of the patch source that the trial's patches come from: apart from all others.
TRIAL_STEP: Final = 2**34


#: What a trial keeps beside the recipe until the training that follows it is done.
CHOICE: Final = ".auto.json"
_TRIALS: Final = TypeAdapter(list[Trial])


def choose_method(
    order: TrainingOrder, teller: Teller, stop: Callable[[], bool]
) -> tuple[TrainingOrder, list[Trial]]:
    """Try the candidates and return the order with the method to train and the budget that is left, and the trials.

    With ``order.resume`` the choice of the interrupted training is taken up.

    Raises
    ------
    UsageError
        If there is nothing to resume, or labelled defects are given, which no candidate learns from.
    ModelError
        If no candidate could be tried.
    Interrupted
        If ``stop`` said so.
    """
    note = order.material.folder / CHOICE
    if order.defects:
        raise UsageError(f"--defects: method {AUTO} learns from good parts alone; name a method, such as cnn")
    if order.resume:
        trials = _read_choice(note)
    else:
        part = _part_of(order.budget, TRIAL_SHARE / len(CANDIDATES))
        orders = [replace(_with_method(order, name), budget=part) for name in CANDIDATES]
        sources = open_order(orders[0], teller)
        trials = [_try(candidate, sources, teller, stop) for candidate in orders]
        if all(trial.pixel_auroc is None for trial in trials):
            raise ModelError(f"no method could be tried: {'; '.join(f'{t.method}: {t.note}' for t in trials)}")
        write_text(note, _TRIALS.dump_json(trials, indent=2).decode() + "\n")
    for line in trial_lines(trials):
        teller.say(line)
    chosen = _with_method(order, best(trials).method)
    return replace(chosen, budget=_part_of(order.budget, 1 - TRIAL_SHARE)), trials


def _with_method(order: TrainingOrder, method: str) -> TrainingOrder:
    return replace(order, method=method, defaults=CANDIDATES[method])


def _try(order: TrainingOrder, sources: Sources, teller: Teller, stop: Callable[[], bool]) -> Trial:
    """Train a candidate for its share and measure it."""
    measured, steps, seconds = [], 0, 0.0
    with tempfile.TemporaryDirectory(prefix="inspect-auto-") as scratch:
        try:
            if order.material.recipe.tiles.whole:
                check_whole_images(order.method)
            for name in order.maps:
                job = replace(open_job(order, name, sources, []), checkpoint=Path(scratch) / name)
                with closing(job):
                    with teller.progress(f"trying {order.method}, {name}") as update:
                        state = train_map(job, Shown(update), stop=stop)
                    measured.append(measure_trial(job, order.material.recipe.scoring.smooth_sigma_px))
                steps, seconds = steps + state.step, seconds + state.spent_s
        except (ModelError, RecipeError) as error:
            return Trial(method=order.method, pixel_auroc=None, note=str(error))
    return trial_of(order.method, measured, steps, seconds)


def _part_of(budget: str, share: float) -> str:
    """Return a share of a budget."""
    steps, seconds = parse_budget(budget)
    return f"{max(1, int(share * steps))}steps" if steps is not None else f"{share * (seconds or 0.0):.3f}s"


def _read_choice(path: Path) -> list[Trial]:
    try:
        return _TRIALS.validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"--resume: no interrupted training of method {AUTO}; train without it") from error
    except ValidationError as error:
        raise UsageError(f"--resume: {path} is damaged; train without it") from error


@dataclass(frozen=True)
class Kinds:
    """Area under the ROC curve of one map's pixels, by kind of defect."""

    auroc: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean over the kinds."""
        return float(np.mean(list(self.auroc.values())))


def measure_trial(job: MapTraining, sigma_px: float) -> Kinds:
    """Return how well a trained job's detector tells artificial defects from good validation patches."""
    patches, masks = job.validation.batch(TRIAL_STEP, PATCHES)
    good = job.preprocess.to_network(patches, masks)
    inside = np.ones((len(good), *good.shape[2:]), bool) if masks is None else masks
    engine = TorchEngine(job.detector, job.device)
    plain = _smoothed(engine.score(good), sigma_px)
    found = {}
    for number, kind in enumerate(KINDS):
        damaged = trial_defects(kind, good, np.random.default_rng([job.seed, 11, number]))
        scores = _smoothed(engine.score(damaged.patches), sigma_px)
        histogram = ScoreHistogram()
        histogram.add(plain[inside])
        histogram.add(scores[inside], (damaged.changed[:, 0] > CHANGED)[inside])
        found[kind] = histogram.auroc() or 0.5
    return Kinds(found)


def _smoothed(scores: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    return np.asarray(gaussian_filter(scores, (0, sigma_px, sigma_px)), np.float32)


def trial_of(method: str, measured: Sequence[Kinds], steps: int, seconds: float) -> Trial:
    """Return what the manifest keeps of a candidate: the mean over maps, in all and by kind."""
    by_kind = {kind: round(float(np.mean([found.auroc[kind] for found in measured])), 4) for kind in KINDS}
    mean = float(np.mean([found.mean for found in measured]))
    return Trial(method=method, pixel_auroc=round(mean, 4), by_kind=by_kind, steps=steps, seconds=round(seconds, 1))


def best(trials: Iterable[Trial]) -> Trial:
    """Return the candidate with the largest area; of equal ones the first.

    Raises
    ------
    ValueError
        If none could be tried.
    """
    return max((trial for trial in trials if trial.pixel_auroc is not None), key=lambda t: t.pixel_auroc or 0.0)


def trial_lines(trials: Sequence[Trial]) -> list[str]:
    """Return the trials as a table for people."""
    head = f"{'method':<12} {'AUROC':>6}  " + " ".join(f"{kind:>9}" for kind in KINDS) + "   steps"
    lines = [head]
    for trial in trials:
        if trial.pixel_auroc is None:
            lines.append(f"{trial.method:<12} {'-':>6}  {trial.note}")
            continue
        kinds = " ".join(f"{trial.by_kind[kind]:9.3f}" for kind in KINDS)
        lines.append(f"{trial.method:<12} {trial.pixel_auroc:6.3f}  {kinds} {trial.steps:7d}")
    return lines
