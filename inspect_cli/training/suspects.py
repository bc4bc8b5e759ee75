"""Parts of a training set that do not look like the others, as defective ones do.

A detector is trained for a short while to mark artificial defects: a few defective parts hardly change what it marks.
Then the parts are split into two halves. What is usual is learnt from one half, and the parts of the other half are
scored against that, so that a defective part cannot vouch for itself. A part whose worst place lies far from the
worst places of the others is named.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from inspect_cli.arrays import Mask
from inspect_cli.console import Teller
from inspect_cli.engines import TorchEngine
from inspect_cli.errors import ModelError, NoInputError, UsageError
from inspect_cli.images import Part, WindowReader, open_map
from inspect_cli.material.manifest import Suspect
from inspect_cli.pictures.plots import save_patches
from inspect_cli.recipe import Budget
from inspect_cli.scoring.outliers import LEAST_PARTS, outliers
from inspect_cli.stopping import Interrupted
from inspect_cli.store.atomic import write_text
from inspect_cli.tiles.grid import Grid
from inspect_cli.tiles.tiling import Tiling, count_of_area, tiling_of
from inspect_cli.training.batches import MapTraining, fit_tiles
from inspect_cli.training.budget import LOOK_PLENTY_S, LOOK_PLENTY_SHARE, LOOK_SHARE, LOOK_TRAINING_SHARE
from inspect_cli.training.loop import train_map
from inspect_cli.training.order import Shown, TrainingOrder, closing, open_job
from inspect_cli.training.prepare import Split, Survey
from inspect_cli.training.scorer import Scorer
from inspect_cli.training.sources import Sources

PICTURE: Final = "suspects.png"
#: What was found for a training by some method, kept beside the recipe until that is done.
NOTE: Final = ".suspects-{method}.json"
#: What looks at the parts.
METHOD: Final = "feature-direct"
#: Steps that it is trained for: about a tenth of the budget on two cores, within these bounds.
_STEPS: Final = (1, 400)
_STEPS_A_SECOND: Final = 0.8
_SHARE_OF_STEPS: Final = 0.1
#: Tiles by which the time of one is found out.
_TRIED: Final = 2
#: Patches of 128 px that are looked at: ten for each second of the budget, within these bounds.
_PATCHES: Final = (600, 6000)
_A_SECOND: Final = 10
_A_STEP: Final = 2.5
_SHOWN: Final = 12


class Look(BaseModel):
    """What was found, and the seconds that it took."""

    suspects: list[Suspect]
    seconds: float = Field(ge=0)


class _Place(NamedTuple):
    """The worst place of a part: its score in units of what is usual, the window around it, and where (x, y) in it.

    ``window`` is y, x, height and width; ``share`` is how much of the part was looked at.
    """

    part: Part
    map: str
    score: float
    window: tuple[int, int, int, int]
    at: tuple[int, int]
    share: float = 1.0

    @property
    def x_px(self) -> int:
        """Where it is in the map."""
        return self.window[1] + self.at[0]

    @property
    def y_px(self) -> int:
        """Where it is in the map."""
        return self.window[0] + self.at[1]

    def patch(self) -> NDArray[Any]:
        """Read the window's pixels."""
        with open_map(self.part.files[self.map]) as reader:
            return WindowReader(reader, *self.window).read()


class _Looked(NamedTuple):
    """The worst places of the parts that were looked at on one map, and how many there was time for."""

    places: list[_Place]
    parts: int


class Unusual(NamedTuple):
    """A part's worst place, its score over the median of all parts' worst places, and whether it stands out."""

    place: _Place
    times: float
    stands_out: bool


def without_suspects(
    order: TrainingOrder,
    sources: Sources,
    teller: Teller,
    leave_out: bool,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Sources, Look]:
    """Name the parts that stand out and leave them out of the sources if asked to; draw the most unusual places.

    With too few parts, or without the pretrained network, nothing is looked at; that is told where it matters. With
    ``order.resume`` what the interrupted training found and left out holds.

    Raises
    ------
    UsageError
        If what the interrupted training found cannot be read.
    Interrupted
        If ``stop``, asked between steps and parts, said so.
    """
    note = note_of(order)
    if not order.resume:
        note.unlink(missing_ok=True)
    if order.resume and note.exists():
        look = _read(note)
    else:
        started = time.monotonic()
        found = _found(order, sources, teller, leave_out, stop)
        look = Look(suspects=found, seconds=time.monotonic() - started)
        write_text(note, look.model_dump_json(indent=2) + "\n")
    suspects = look.suspects
    left_out = {suspect.part for suspect in suspects if suspect.left_out}
    if suspects and bool(left_out) != leave_out:
        teller.warn("--resume: whether parts that stand out are left out was settled when the training began")
    if suspects:
        fate = "left out of the training" if left_out else "still used for training; --robust leaves them out"
        names = {suspect.part for suspect in suspects}
        picture = order.material.folder / PICTURE
        teller.warn(f"{len(names)} of {len(sources.survey.parts)} part(s) stand out, see {picture}: {fate}")
    if not left_out:
        return sources, look
    return sources.without(left_out, order.material.recipe.training.validation_share, order.seed), look


def note_of(order: TrainingOrder) -> Path:
    """Return the file that holds what was found until the training is done."""
    return order.material.folder / NOTE.format(method=order.method)


def _read(note: Path) -> Look:
    try:
        return Look.model_validate_json(note.read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(f"--resume: {note} is damaged; train without it") from error


def _found(
    order: TrainingOrder, sources: Sources, teller: Teller, leave_out: bool, stop: Callable[[], bool]
) -> list[Suspect]:
    """Look at the parts, draw the most unusual places, tell which stand out and return those."""
    count = len(sources.survey.parts)
    if count < LEAST_PARTS:
        if leave_out:
            teller.warn(f"--robust: {count} part(s) are too few to see which stands out; {LEAST_PARTS} are needed")
        return []
    tell = teller.warn if leave_out else teller.say
    try:
        found = {name: _worst_places(order, name, sources, teller, stop) for name in order.maps}
    except (ModelError, NoInputError) as error:
        tell(f"the parts were not looked at for unusual ones: {error}")
        return []
    for name, looked in found.items():
        if looked.parts < count:
            few = f"{looked.parts} of {count} parts were looked at for unusual ones"
            tell(f"map {name}: {few}; there is time for more with a longer --budget")
    unusual = sorted((u for looked in found.values() for u in ranked(looked.places)), key=lambda u: -u.times)
    if not unusual:
        tell("the parts were not looked at for unusual ones: no tile lies inside the ROI for half of it")
        return []
    picture = order.material.folder / PICTURE
    save_patches(picture, [(u.place.patch(), _caption(u.place, u.times), u.place.at) for u in unusual[:_SHOWN]])
    places = [(u.place, u.times) for u in unusual if u.stands_out]
    if not places:
        share = min(u.place.share for u in unusual)
        all_of_it = "" if share == 1 else f" ({share:.0%} of each was looked at)"
        teller.say(f"no part stands out{all_of_it}; the most unusual places: {picture}")
        return []
    for place, times in places:
        teller.warn(
            f"{place.part.id}, map {place.map}: does not look like the other parts at x {place.x_px}, y {place.y_px} "
            f"({times:.1f} times what is usual for a part's worst place)"
        )
    return [
        Suspect(part=p.part.id, map=p.map, x_px=p.x_px, y_px=p.y_px, times_usual=round(times, 2), left_out=leave_out)
        for p, times in places
    ]


def ranked(places: Sequence[_Place]) -> list[Unusual]:
    """Return the places, worst first, with their score over the median, and whether it is far above the others'."""
    if not places:
        return []
    times, far = outliers([place.score for place in places])
    return [Unusual(places[i], float(times[i]), bool(far[i])) for i in np.argsort(-times)]


def _worst_places(
    order: TrainingOrder, name: str, sources: Sources, teller: Teller, stop: Callable[[], bool]
) -> _Looked:
    """Return the worst place of each part on one map, scored against the other half of the parts.

    Of more parts than there is time for, some at random.
    """
    maps = len(order.maps)
    sources = replace(sources, extra=Survey())  # they are not looked at, and may ask for smaller tiles
    look = replace(order, method=METHOD, defaults={}, budget=Budget(steps=steps_of_budget(order.budget, maps)))
    parts = sources.survey.parts
    mixed = [parts[i] for i in np.random.default_rng([order.seed, 13]).permutation(len(parts))]
    halves = mixed[::2], mixed[1::2]
    found, count, looked = [], len(parts), 0
    with tempfile.TemporaryDirectory(prefix="inspect-look-") as scratch:

        def opened(learnt_from: Sources) -> MapTraining:
            return replace(open_job(look, name, learnt_from, []), checkpoint=Path(scratch) / name)

        marks = _trained(opened(sources), training_seconds(order.budget, maps), name, teller, stop)
        tiles: int | None = None
        for known, others in (halves, halves[::-1]):
            job = opened(replace(sources, split=Split(known, known[:1])))
            with closing(job):
                engine = TorchEngine(job.detector, job.device)
                job.detector.load_state_dict(marks)
                torch.manual_seed(job.seed)
                job.detector.fit(fit_tiles(job))
                rois = sources.survey.rois
                if tiles is None:  # as many of each part: the worst of more tiles is worse
                    started, tried = time.monotonic(), 0
                    for part in others:  # the first may have no tile inside its ROI
                        tried = _worst_of(job, engine, part, rois[part.id], name, order, _TRIED)[1]
                        if tried:
                            break
                    one_s = (time.monotonic() - started) / max(1, tried)
                    seconds = looking_seconds(order.budget, maps)
                    count = parts_in_time(len(parts), one_s, seconds)
                    most = max(1, count_of_area(patches_of_budget(order.budget), job.detector.tile_px) // count)
                    tiles = tiles_in_time(most, count, one_s, seconds)
                for part in others[: -(-count // 2)]:
                    if stop():
                        raise Interrupted(job.checkpoint)
                    place, _ = _worst_of(job, engine, part, rois[part.id], name, order, tiles)
                    looked += 1
                    found += [] if place is None else [place]
    return _Looked(found, looked)


def _trained(
    job: MapTraining, seconds: float | None, name: str, teller: Teller, stop: Callable[[], bool]
) -> dict[str, Tensor]:
    """Return the weights of a detector that was trained for a short while on the training parts."""
    job = replace(job, budget=replace(job.budget, seconds=seconds))
    with closing(job), teller.progress(f"looking for parts that stand out, {name}") as update:
        job.detector.fit_patches = 0  # what it would learn then is learnt from each half
        train_map(job, Shown(update), stop=stop)
        return job.detector.state_dict()


def _worst_of(
    job: MapTraining, engine: TorchEngine, part: Part, roi: Mask | None, name: str, order: TrainingOrder, tiles: int
) -> tuple[_Place | None, int]:
    """Return the worst place of a part, of at most ``tiles`` tiles spread over it, and how many there are.

    None and 0 if no tile lies inside the ROI by half.
    """
    side = job.detector.tile_px
    sigma_px = tiling_of(order.material.recipe, side).smooth_sigma_px
    scorer = Scorer(job.preprocess, engine, Tiling(side, side, smooth_sigma_px=sigma_px))
    worst: _Place | None = None
    with open_map(part.files[name]) as reader:
        height, width = min(side, reader.header.height), min(side, reader.header.width)
        grid = Grid(reader.header.height, reader.header.width, side, side)
        corners = [(y, x) for y in grid.rows for x in grid.columns if _inside(roi, y, x, side)]
        looked_at = spread(corners, tiles)
        share = len(looked_at) / max(1, len(corners))
        for y, x in looked_at:
            scores = np.concatenate(list(scorer.window(reader, (y, x, height, width), roi).rows()))
            top = np.unravel_index(int(np.nanargmax(scores)), scores.shape)
            if worst is None or scores[top] > worst.score:
                at = int(top[1]), int(top[0])
                worst = _Place(part, name, float(scores[top]), (y, x, height, width), at, share)
    return worst, len(looked_at)


def steps_of_budget(budget: Budget, maps: int) -> int:
    """Return how many steps the detector that looks at one of ``maps`` maps is trained for."""
    seconds = budget.seconds_a_map(maps)
    wanted = _STEPS_A_SECOND * seconds if seconds is not None else _SHARE_OF_STEPS * (budget.steps or 0)
    return int(np.clip(wanted, *_STEPS))


def parts_in_time(parts: int, one_s: float, seconds: float | None) -> int:
    """Return how many parts are looked at, where a tile of one takes ``one_s``: all, or as many as time allows."""
    least = min(parts, LEAST_PARTS)
    return parts if seconds is None else int(np.clip(seconds / max(one_s, 1e-9), least, parts))


def tiles_in_time(most: int, parts: int, one_s: float, seconds: float | None) -> int:
    """Return how many tiles of each part are looked at, where one takes ``one_s``: ``most``, or as time allows."""
    return most if seconds is None else int(np.clip(seconds / parts / max(one_s, 1e-9), 1, most))


def spread(corners: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """Return ``count`` of the corners, each the middle one of as many stretches, or all."""
    some = min(count, len(corners))
    return [corners[int((number + 0.5) * len(corners) / some)] for number in range(some)]


def training_seconds(budget: Budget, maps: int) -> float | None:
    """Return how long the detector that looks at a map is trained at most, in seconds; None by a budget in steps."""
    seconds = budget.seconds_a_map(maps)
    if seconds is None:
        return None
    plenty = max(0.0, seconds - LOOK_PLENTY_S)
    return LOOK_TRAINING_SHARE * (seconds - plenty) + LOOK_PLENTY_SHARE * plenty


def looking_seconds(budget: Budget, maps: int) -> float | None:
    """Return how long it then looks at the parts on one of ``maps`` maps; None by a budget in steps."""
    seconds = budget.seconds_a_map(maps)
    return None if seconds is None else LOOK_SHARE * seconds


def patches_of_budget(budget: Budget) -> int:
    """Return how many patches of 128 px are looked at: that takes a small part of what the training takes."""
    wanted = _A_SECOND * budget.seconds if budget.seconds is not None else _A_STEP * (budget.steps or 0)
    return int(np.clip(wanted, *_PATCHES))


def _inside(roi: Mask | None, y: int, x: int, side: int) -> bool:
    return roi is None or bool(roi[y : y + side, x : x + side].mean() >= 0.5)


def _caption(place: _Place, times: float) -> str:
    return f"{place.part.id}, {place.map}\nx {place.x_px}, y {place.y_px}: {times:.1f} times"
