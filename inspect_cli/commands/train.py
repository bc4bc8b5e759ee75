"""``inspect train``: learn what good material looks like."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspect_cli import console
from inspect_cli.commands.options import Device, Json, Models, check_name, parse_budget, parse_names
from inspect_cli.errors import EXIT_DOUBT, UsageError, nearest
from inspect_cli.methods.registry import AUTO, method_names

if TYPE_CHECKING:
    from inspect_cli.evaluation.truth import Truth
    from inspect_cli.images import Part
    from inspect_cli.material.bundle import Bundle


def train(
    material: Annotated[str, typer.Option("--material", "-m", help="Name of the material.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of good parts.", show_default="what the recipe names"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help=f"Detector: auto (tries some), {', '.join(method_names())}; see docs/methods.md.",
            show_default="the recipe's",
        ),
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option("--maps", help="Maps to train, separated by commas.", show_default="all of the recipe"),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="Time for all of it (90s, 8m, 1h): the search for odd parts, trials, all maps and checks; less is "
            "taken where longer training would overfit. Or steps for each map (5000steps), auto's trials among them.",
            show_default="the recipe's",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the split, the patches and the network.")] = 0,
    device: Device = "auto",
    models: Models = None,
    extra: Annotated[
        Path | None,
        typer.Option(
            "--extra",
            help="Folder of more good patches, such as `inspect augment` writes; tiles are no larger than these.",
        ),
    ] = None,
    defects: Annotated[
        Path | None,
        typer.Option("--defects", help="Folder of defective parts, for methods that learn from labels (cnn)."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth",
            help="Folder of the masks of --defects; without it the whole of each part counts as possibly defective.",
        ),
    ] = None,
    preview_corruptions: Annotated[
        bool,
        typer.Option("--preview-corruptions", help="Only write a picture of what training patches are damaged with."),
    ] = False,
    preview_roi: Annotated[
        bool, typer.Option("--preview-roi", help="Only write a picture of the region of interest of some parts.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    robust: Annotated[
        bool,
        typer.Option("--robust", help="Leave out parts that do not look like the others (named anyway)."),
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in half precision.")] = False,
    as_json: Json = False,
) -> None:
    """Train a material on good parts: one network for each map.

    Writes a bundle beside the recipe (weights, manifest, model card, loss curve, pictures)
    and provisional limits, so that `inspect score` works at once. A material without a recipe gets one from
    the names of its files. A model that hardly tells artificial defects from good material passes no part, and
    the command ends with code 9.

    \b
    Examples:
      inspect train --material foil --data batch/train
      inspect train --material foil --data batch/train --resume          (after one that was stopped)
      inspect train --material fabric --data photos/good --method ssae --preview-corruptions
      inspect train --material fabric --data photos/good --method cnn --defects photos/bad --truth photos/masks
    """  # noqa: D301
    from inspect_cli.images import discover_parts
    from inspect_cli.recipe import Budget
    from inspect_cli.stopping import Interrupted, graceful_stop
    from inspect_cli.training.material import maps_to_train, material_to_train, parts_to_train
    from inspect_cli.training.order import TrainingOrder
    from inspect_cli.training.preview import preview_corruptions as write_previews
    from inspect_cli.training.preview import preview_rois as write_rois
    from inspect_cli.training.train import train_material

    if method is not None:
        _check_method(method)
    asked = None if budget is None else parse_budget(budget)
    check_name(material)
    names = parse_names(maps, "--maps")
    chosen = material_to_train(material, data, models, maps is not None, console)
    wanted = maps_to_train(chosen, names)
    recipe = chosen.recipe
    parts = parts_to_train(chosen, data, wanted, console)
    bad = () if defects is None else discover_parts(defects, wanted, recipe.maps)
    order = TrainingOrder(
        material=chosen,
        parts=parts,
        method=method or recipe.method.name,
        maps=wanted,
        budget=asked or Budget.parse(recipe.training.budget),
        seed=seed,
        device=device,
        half=half,
        resume=resume,
        extra=() if extra is None else discover_parts(extra, wanted, recipe.maps),
        defects=bad,
        truth=_truth(truth, bad),
    )
    if preview_corruptions and order.method == AUTO:
        raise UsageError(f"--preview-corruptions: method {AUTO} tries several; name one with --method")
    if preview_roi or preview_corruptions:
        pictures = write_rois(order, console) if preview_roi else []
        pictures += write_previews(order, console) if preview_corruptions else []
        _tell_pictures(pictures, as_json)
        return
    started = time.monotonic()
    with graceful_stop() as stopper:
        try:
            bundle = train_material(order, console, stopper.wanted, robust)
        except Interrupted as interrupted:
            if interrupted.checkpoint is not None and interrupted.checkpoint.exists():
                console.say("interrupted; the state is saved: go on with the same command and --resume")
            else:  # a trial, or the search for odd parts: those keep nothing
                console.say("interrupted before the training itself; nothing to resume, run the same command again")
            raise typer.Exit(stopper.exit_code) from None
    _tell(bundle, time.monotonic() - started, models, as_json)
    if bundle.manifest.doubt is not None:
        raise typer.Exit(EXIT_DOUBT)


def _truth(truth: Path | None, defects: Sequence[Part]) -> Truth | None:
    from inspect_cli.evaluation.truth import Truth

    if truth is None:
        return None
    if not defects:
        raise UsageError("--truth: marks the defects of --defects; name that folder too")
    return Truth.open(truth).of_parts({part.id: part.files.values() for part in defects})


def _check_method(name: str) -> None:
    known = [AUTO, *method_names()]
    if name not in known:
        raise UsageError(f"--method {name!r} is unknown: {nearest(name, known)}")


def _tell_pictures(pictures: Sequence[Path], as_json: bool) -> None:
    names = [str(picture) for picture in pictures]
    console.out(json.dumps({"pictures": names}) if as_json else "\n".join(names))


def _tell(bundle: Bundle, seconds: float, models: Path | None, as_json: bool) -> None:
    manifest = bundle.manifest
    calibration = bundle.require_calibration()
    for name, limit in calibration.limits.items():
        console.say(f"{name:>10}  limit {limit.pixel:.4g} ({calibration.origin})")
    if manifest.doubt is not None:
        console.warn(manifest.doubt)
    store = "" if models is None else f" --models {shlex.quote(str(models))}"
    console.say(
        f"model: {bundle.folder}, in {seconds:.0f} s; "
        f"next: inspect score FOLDER --material {manifest.material}{store}"
    )
    if as_json:
        console.out(manifest.model_dump_json())
    else:
        console.out(str(bundle.folder))
