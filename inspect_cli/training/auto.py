"""``--method auto``: try what may fit, briefly, and take what finds artificial defects in held-out good parts.

Each candidate is trained for a share of the budget and then shown held-out good material with and without artificial
defects (``training/trial.py``). A trial on artificial defects says little where candidates are close, so the first of
those that are is taken. Where that is settled, because no area can be larger by enough, the others are not tried.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import BaseModel, Field, ValidationError

from inspect_cli.console import Teller
from inspect_cli.corruptions.trial import KINDS
from inspect_cli.errors import ModelError, NoInputError, RecipeError, UsageError, nearest
from inspect_cli.material.bundle import find_bundle
from inspect_cli.material.manifest import Trial, says_little
from inspect_cli.methods.registry import AUTO, check_whole_images, checked_settings, method_class
from inspect_cli.recipe import Budget
from inspect_cli.store.atomic import write_text
from inspect_cli.training.batches import validation_batches
from inspect_cli.training.budget import TRIALS_SHARE, left_of
from inspect_cli.training.health import explained_variance
from inspect_cli.training.loop import train_map
from inspect_cli.training.order import Shown, TrainingOrder, closing, open_job
from inspect_cli.training.sources import Sources
from inspect_cli.training.trial import measure_trial, trial_of

#: What is tried, the most dependable on real defects first. Settings go behind the recipe's; a narrow `direct` makes
#: enough steps in a trial, on a CPU too.
CANDIDATES: Final[dict[str, dict[str, object]]] = {
    "feature-direct": {},
    "cae": {},
    "direct": {"width": 32},
}
#: Areas that differ by less than this are as good as equal.
CLOSE: Final = 0.02

_SETTLED: Final = f"it could not be better by {CLOSE:g}"
#: What a trial keeps beside the recipe until the training that follows it is done.
CHOICE: Final = ".auto.json"


class Choice(BaseModel):
    """What was tried, and the seconds that it took."""

    trials: list[Trial]
    seconds: float = Field(ge=0)


def choose_method(
    order: TrainingOrder, sources: Sources, teller: Teller, stop: Callable[[], bool]
) -> tuple[TrainingOrder, list[Trial]]:
    """Try the candidates and return the order with the method to train and the budget that is left, and the trials.

    With ``order.resume`` the choice of the interrupted training is taken up.

    Raises
    ------
    UsageError
        If there is nothing to resume.
    ModelError
        If no candidate could be tried.
    Interrupted
        If ``stop`` said so.
    """
    note, started = order.material.folder / CHOICE, time.monotonic()
    if order.resume:
        choice = _read_choice(note)
    else:
        part = order.budget.share(TRIALS_SHARE / len(CANDIDATES))
        trials: list[Trial] = []
        for name in CANDIDATES:
            if _is_settled(trials):
                trials.append(Trial(method=name, pixel_auroc=None, note=_SETTLED))
                continue
            trials.append(_try(replace(_with_method(order, name), budget=part), sources, teller, stop))
        if all(trial.pixel_auroc is None for trial in trials):
            reasons = "; ".join(f"{trial.method}: {trial.note}" for trial in trials)
            if not any(trial.steps for trial in trials):
                raise ModelError(f"no method could be tried: {reasons}")
            teller.warn(f"no method could be measured ({reasons}); the first that could be trained is taken")
        choice = Choice(trials=trials, seconds=time.monotonic() - started)
        write_text(note, choice.model_dump_json(indent=2) + "\n")
    for line in trial_lines(choice.trials):
        teller.say(line)
    chosen = _with_method(order, _chosen(choice.trials).method)
    return replace(chosen, budget=_left(order.budget, choice)), choice.trials


def check_choice(order: TrainingOrder) -> None:
    """Raise UsageError if there is no choice of an interrupted training to take up."""
    _read_choice(order.material.folder / CHOICE)


def beside_others(order: TrainingOrder, teller: Teller) -> TrainingOrder:
    """Return the order; where ``auto`` is to train some maps of a model again, with the method of that model.

    Another choice would make a model of those maps alone, and the others would be looked at no more.
    """
    recipe, folder = order.material.recipe, order.material.folder
    if order.method != AUTO or set(order.maps) == set(recipe.maps):
        return order
    try:
        manifest = find_bundle(folder).manifest
    except ModelError:
        return order
    if set(manifest.maps) <= set(order.maps):
        return order
    teller.say(f"method {manifest.method}, as the other maps of {folder / manifest.method}")
    return _with_method(order, manifest.method)


def check_auto_settings(settings: Mapping[str, object]) -> None:
    """Raise RecipeError for a setting that no candidate has, or of a value that one that has it does not take."""
    known = sorted({key for name in CANDIDATES for key in method_class(name).Settings.model_fields})
    for key in settings:
        if key not in known:
            raise RecipeError(f"method.settings.{key}: none of {', '.join(CANDIDATES)} has it; {nearest(key, known)}")
    for name, defaults in CANDIDATES.items():
        own = {key: value for key, value in settings.items() if key in method_class(name).Settings.model_fields}
        checked_settings(name, {**defaults, **own})


def _with_method(order: TrainingOrder, method: str) -> TrainingOrder:
    return replace(order, method=method, defaults=CANDIDATES.get(method, {}))


def _try(order: TrainingOrder, sources: Sources, teller: Teller, stop: Callable[[], bool]) -> Trial:
    """Train a candidate for its share and measure it."""
    measured, little, steps, seconds = [], [], 0, 0.0
    with tempfile.TemporaryDirectory(prefix="inspect-auto-") as scratch:
        try:
            if order.material.recipe.tiles.whole:
                check_whole_images(order.method)
            for name in order.maps:
                job = replace(open_job(order, name, sources, []), checkpoint=Path(scratch) / name)
                with closing(job):
                    with teller.progress(f"trying {order.method}, {name}") as update:
                        state = train_map(job, Shown(update), stop=stop)
                    steps, seconds = steps + state.step, seconds + state.spent_s
                    measured.append(measure_trial(job, order, name, sources))
                    explained = explained_variance(job.detector, validation_batches(job, most=1))
                    little.append(says_little(measured[-1].mean, explained))
        except (ModelError, NoInputError, RecipeError) as error:
            return Trial(
                method=order.method, pixel_auroc=None, note=str(error), steps=steps, seconds=round(seconds, 1)
            )
    return trial_of(order.method, measured, steps, seconds, doubtful=all(little))


def _left(budget: Budget, choice: Choice) -> Budget:
    """Return what trials leave of a budget: of steps a share, of seconds those that were not spent."""
    if budget.steps is None:
        return left_of(budget, choice.seconds)
    tried = sum(trial.steps > 0 for trial in choice.trials)
    return budget.share(1 - TRIALS_SHARE * tried / len(CANDIDATES))


def _read_choice(path: Path) -> Choice:
    try:
        choice = Choice.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"--resume: no interrupted training of method {AUTO}; train without it") from error
    except ValidationError as error:
        raise UsageError(f"--resume: {path} is damaged or of another version; train without it") from error
    tried = [trial for trial in choice.trials if trial.pixel_auroc is not None]
    if not any(trial.steps for trial in choice.trials) or any(
        t.method not in CANDIDATES or set(t.by_kind) != set(KINDS) for t in tried
    ):
        raise UsageError(f"--resume: {path} is of another version of inspect; train without it")
    return choice


def _chosen(trials: Sequence[Trial]) -> Trial:
    """Return the best candidate; where none could be measured, the first that could be trained."""
    if any(trial.pixel_auroc is not None for trial in trials):
        return best(trials)
    return next(trial for trial in trials if trial.steps)


def _is_settled(trials: Sequence[Trial]) -> bool:
    """Whether the best of some trials stays the best whatever the next ones find: no area is above 1."""
    tried = any(trial.pixel_auroc is not None for trial in trials)
    return tried and (best(trials).pixel_auroc or 0.0) > 1 - CLOSE


def best(trials: Iterable[Trial]) -> Trial:
    """Return the first candidate whose area is the largest or close to it.

    Those that no part would pass by come last.

    Raises
    ------
    ValueError
        If none could be tried.
    """
    known = [trial for trial in trials if trial.pixel_auroc is not None]
    sound = [trial for trial in known if not trial.doubtful] or known
    tried = [(trial, trial.pixel_auroc or 0.0) for trial in sound]
    most = max(area for _, area in tried)
    return next(trial for trial, area in tried if area > most - CLOSE)


def trial_lines(trials: Sequence[Trial]) -> list[str]:
    """Return the trials as a table for people."""
    head = f"{'method':<14} {'AUROC':>6}  " + " ".join(f"{kind:>10}" for kind in KINDS) + "   steps"
    lines = [head]
    for trial in trials:
        if trial.pixel_auroc is None:
            lines.append(f"{trial.method:<14} {'-':>6}  {trial.note}")
            continue
        kinds = " ".join(f"{trial.by_kind[kind]:10.3f}" for kind in KINDS)
        lines.append(f"{trial.method:<14} {trial.pixel_auroc:6.3f}  {kinds} {trial.steps:7d}")
    return lines
