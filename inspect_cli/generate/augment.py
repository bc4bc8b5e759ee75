"""``inspect augment``: good parts -> a trained generator -> generated patches, written as parts to train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from inspect_cli import TOOL
from inspect_cli.console import Teller
from inspect_cli.engines import choose_device
from inspect_cli.generate.adversarial import Game
from inspect_cli.generate.dcgan import LATENT, check_tile
from inspect_cli.generate.output import (
    PICTURE,
    RECORD,
    check_out,
    check_storable,
    part_files,
    save_samples,
    write_patch,
)
from inspect_cli.generate.patches import RegisteredPatches, Scale, learn_scales
from inspect_cli.generate.quality import Comparison, compare
from inspect_cli.images import Part
from inspect_cli.material.materials import Material
from inspect_cli.recipe import Budget, MapSpec
from inspect_cli.store.atomic import write_json
from inspect_cli.store.listed import remove_listed
from inspect_cli.store.timestamps import utc_now
from inspect_cli.tiles.tiling import TILE_PX
from inspect_cli.training.budget import MapBudget
from inspect_cli.training.prepare import Split, split_parts, survey_parts
from inspect_cli.training.sources import good_parts

#: Patches of each kind that are compared: as many as make these pixels, within limits.
_COMPARED_PX: Final = 2**22
_FEWEST_COMPARED: Final = 16
_MOST_COMPARED: Final = 128
#: Step whose patches are compared; no training step has it.
_COMPARED_STEP: Final = 2**31
_LOSSES_KEPT: Final = 100

Signals = NDArray[np.float32]


@dataclass(frozen=True)
class AugmentOrder:
    """What to generate from what, and how.

    ``width`` is the number of channels of the networks' layer next to the image, ``budget`` a time or a number of
    steps, ``count`` the number of parts to write below ``out``.
    """

    material: Material
    parts: Sequence[Part]
    maps: Mapping[str, MapSpec]
    out: Path
    count: int
    width: int
    budget: Budget
    seed: int
    device: str
    force: bool = False


@dataclass(frozen=True)
class _Sources:
    """The usable parts, split, and patches of both sides in the generator's range."""

    split: Split
    train: RegisteredPatches
    held_out: RegisteredPatches
    scales: dict[str, Scale]

    def close(self) -> None:
        self.train.close()
        self.held_out.close()


def augment(order: AugmentOrder, teller: Teller, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Train a generator on good parts, write ``count`` generated ones below ``out``, and return the record.

    Nothing is written before the training is done. The record, ``augment.json``, is written before the parts with
    ``complete`` false, and again at the end.

    Raises
    ------
    RecipeError
        If the networks have no layers for the recipe's tiles.
    UsageError
        If ``out`` holds files and ``force`` is not set, lies among the good parts, or a map cannot be stored.
    NoInputError
        If no part is usable, or no patch lies wholly inside the ROI.
    ModelError
        If training diverges.
    Interrupted
        If ``stop``, asked between training steps, said so; nothing was written.
    OutputError
        If a file cannot be written.
    """
    recipe = order.material.recipe
    tile_px = recipe.tiles.size_px or TILE_PX
    check_tile(tile_px)
    device, budget = choose_device(order.device), MapBudget.of(order.budget, 1)
    check_out(order.out, order.parts, order.force)
    with closing(_open_sources(order, teller)) as sources:
        torch.manual_seed(order.seed)
        channels = sum(spec.channels for spec in order.maps.values())
        game = Game(channels, tile_px, order.width, recipe.training.batch, device)
        teller.say(
            f"training a DCGAN of width {order.width} on {len(sources.split.train)} part(s); maps "
            f"{', '.join(order.maps)}; budget {order.budget}; device {device}"
        )
        seconds = _train(game, sources, budget, teller, stop)
        real = sources.held_out.batch(_COMPARED_STEP, _compared(order), sources.scales)
        known = sources.train.batch(_COMPARED_STEP, 2 * _compared(order), sources.scales)
    noise = _noise(order)
    shown = np.concatenate(list(game.generated(noise[: len(real)])))
    record = _record(order, game, seconds, sources, _compare(order, shown, real, known))
    for warning in record["warnings"]:
        teller.warn(warning)
    _write(order, game, noise[: order.count], sources.scales, record)
    save_samples(order.out / PICTURE, real, shown, order.maps)
    record["complete"] = True
    write_json(order.out / RECORD, record)
    return record


def _open_sources(order: AugmentOrder, teller: Teller) -> _Sources:
    recipe, maps = order.material.recipe, dict(order.maps)
    parts, labelled = good_parts(order.parts)
    survey = survey_parts(parts, recipe, maps, order.material.folder)
    for fault in (*labelled, *survey.faults):
        teller.warn(f"left out: {fault}")
    for name, spec in maps.items():
        check_storable(name, spec, survey.dtypes[name])
    split = split_parts(survey.parts, recipe.training.validation_share, order.seed)
    tile = recipe.tiles.size_px or TILE_PX
    train = RegisteredPatches(split.train, survey.rois, list(maps), tile, order.seed)
    held_out = RegisteredPatches(split.validation, survey.rois, list(maps), tile, order.seed + 1)
    return _Sources(split, train, held_out, learn_scales(train, maps))


def _train(game: Game, sources: _Sources, budget: MapBudget, teller: Teller, stop: Callable[[], bool]) -> float:
    """Train the networks and return the seconds it took."""
    with teller.progress("generator") as update:

        def report(progress: float, step: int, discriminator: float, generator: float, rate: float) -> None:
            losses = f"discriminator {discriminator:.3f}  generator {generator:.3f}"
            update(progress, f"step {step}  {losses}  {rate:.1f} steps/s")

        game.train(lambda step: sources.train.batch(step, game.batch, sources.scales), budget, report, stop)
    teller.say(f"{len(game.losses)} steps in {budget.elapsed_s():.0f} s")
    return round(budget.elapsed_s(), 1)


def _compared(order: AugmentOrder) -> int:
    tile_px = order.material.recipe.tiles.size_px or TILE_PX
    return min(max(_COMPARED_PX // tile_px**2, _FEWEST_COMPARED), _MOST_COMPARED)


def _noise(order: AugmentOrder) -> torch.Tensor:
    """Return the noise (n, 100) of all patches; the first are compared, and the first ``count`` are written."""
    source = torch.Generator().manual_seed(order.seed)
    return torch.randn(max(order.count, _compared(order)), LATENT, generator=source)


def _compare(order: AugmentOrder, generated: Signals, real: Signals, known: Signals) -> dict[str, Comparison]:
    """Compare each map's channels of the generated patches with held-out and with training ones."""
    return {
        name: compare(generated[:, channels], real[:, channels], known[:, channels])
        for name, channels in _channels(order.maps).items()
    }


def _channels(maps: Mapping[str, MapSpec]) -> dict[str, slice]:
    """Return the place of each map's channels among those of all maps."""
    found, first = {}, 0
    for name, spec in maps.items():
        found[name] = slice(first, first + spec.channels)
        first += spec.channels
    return found


def _scarce(split: Split) -> list[str]:
    if split.train != split.validation:
        return []
    return ["only one part: the generated patches were compared with the part that they were learnt from"]


def _record(
    order: AugmentOrder,
    game: Game,
    seconds: float,
    sources: _Sources,
    comparisons: Mapping[str, Comparison],
) -> dict[str, Any]:
    """Return what is told of the run: how it was made, whether its patches are of use, its files."""
    warnings = [text for name, found in comparisons.items() for text in found.warnings(name)]
    files = [name for part in part_files(order.count, order.maps) for name in part.values()]
    return {
        "tool": TOOL,
        "created_utc": utc_now(),
        "complete": False,
        "material": order.material.name,
        "maps": {name: scale.preprocess.dtype for name, scale in sources.scales.items()},
        "tile_px": game.tile_px,
        "parts": order.count,
        "seed": order.seed,
        "budget": str(order.budget),
        "steps": len(game.losses),
        "seconds": seconds,
        "width": order.width,
        "batch": game.batch,
        "trained_on": [part.id for part in sources.split.train],
        "compared_with": [part.id for part in sources.split.validation],
        "collapsed": any(found.collapsed for found in comparisons.values()),
        "warnings": warnings + _scarce(sources.split),
        "comparison": {name: found.record() for name, found in comparisons.items()},
        "losses": _thinned(game.losses),
        "files": [*files, PICTURE],
    }


def _thinned(losses: Sequence[tuple[float, float]]) -> list[dict[str, float]]:
    """Return at most about a hundred points of the loss curves, each the mean of the steps up to it."""
    size = max(1, len(losses) // _LOSSES_KEPT)
    points = []
    for first in range(0, len(losses), size):
        some = losses[first : first + size]
        discriminator, generator = (float(f"{value:.5g}") for value in np.mean(some, axis=0))
        points.append({"step": first + len(some), "discriminator": discriminator, "generator": generator})
    return points


def _write(
    order: AugmentOrder, game: Game, noise: torch.Tensor, scales: Mapping[str, Scale], record: dict[str, Any]
) -> None:
    """Write the parts, each map in its own type; files of an earlier record go first."""
    remove_listed(order.out / RECORD)
    write_json(order.out / RECORD, record)
    channels, files = _channels(order.maps), iter(part_files(order.count, order.maps))
    for signals in game.generated(noise):
        stored = {name: scales[name].to_stored(signals[:, channels[name]]) for name in order.maps}
        for number in range(len(signals)):
            for name, file in next(files).items():
                write_patch(order.out / file, stored[name][number])
