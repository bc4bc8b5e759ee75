"""``inspect threshold``: set the limits, or apply them to a finished run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspect_cli import console
from inspect_cli.commands.options import (
    Batch,
    Device,
    EngineName,
    Json,
    Method,
    Models,
    Precision,
    Stride,
    parse_batch,
)
from inspect_cli.errors import (
    EXIT_DONE,
    EXIT_SIGINT,
    EXIT_SIGTERM,
    InputError,
    OutputError,
    UsageError,
    nearest,
)

if TYPE_CHECKING:
    from inspect_cli.batch.summary import Outcome
    from inspect_cli.material.manifest import Calibration
    from inspect_cli.recipe.schema import ThresholdSpec
    from inspect_cli.scoring.model import ScoringModel

GOOD_RULES = ("max", "quantile", "sigma")
LABELLED_RULES = ("iou", "f1")
#: So many parts are named in a message.
NAMED = 5
#: Option of a number -> the rule it belongs to.
NUMBER_OF = {"margin": "max", "quantile": "quantile", "sigma": "sigma"}


@dataclass(frozen=True)
class _Request:
    """What the command line asks for."""

    good: Path | None
    labelled: Path | None
    truth: Path | None
    values: list[str]
    rule: str | None
    margin: float | None
    quantile: float | None
    sigma: float | None
    out: Path | None = None

    def numbers(self) -> dict[str, float]:
        """Return the numbers of the rules that were given."""
        return {name: given for name in NUMBER_OF if (given := getattr(self, name)) is not None}


def threshold(
    material: Annotated[str, typer.Option("--material", "-m", help="Name of the material.", show_default=False)],
    good: Annotated[
        Path | None, typer.Option("--good", help="Folder of good parts, other than those trained on.")
    ] = None,
    labelled: Annotated[
        Path | None, typer.Option("--labelled", help="Folder of parts with known defects (needs --truth).")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="Masks (<part>_mask.png) or boxes.csv of --labelled.")
    ] = None,
    value: Annotated[
        list[str] | None,
        typer.Option("--value", help="A limit by hand, MAP=NUMBER in raw units (of maps/MAP.tif); may be repeated."),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            "--rule",
            help="max, quantile or sigma (with --good); iou or f1 of the masks (with --labelled).",
            show_default="the recipe's, or iou",
        ),
    ] = None,
    margin: Annotated[float | None, typer.Option("--margin", help="Factor of rule max.")] = None,
    quantile: Annotated[float | None, typer.Option("--quantile", help="Share of good parts that must pass.")] = None,
    sigma: Annotated[float | None, typer.Option("--sigma", help="Standard deviations of rule sigma.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Run folder of --good or --labelled.",
            show_default="FOLDER/inspection/MATERIAL",
        ),
    ] = None,
    apply: Annotated[
        list[Path] | None,
        typer.Option("--apply", help="Run to judge again from its stored maps; the network does not run."),
    ] = None,
    models: Models = None,
    method: Method = None,
    stride: Stride = None,
    device: Device = "auto",
    batch: Batch = "auto",
    engine: EngineName = "auto",
    precision: Precision = "f32",
    as_json: Json = False,
) -> None:
    """Set the limits of a material, and apply them to a run.

    The parts of --good or --labelled are scored first (what is done already is not scored again). The
    limits are stored in the model with their origin; a histogram with the limits drawn is written beside it.

    \b
    Examples:
      inspect threshold --material riblet --good batch/good --rule max --margin 1.2
      inspect threshold --material riblet --good batch/good --rule quantile --quantile 0.95
      inspect threshold --material riblet --labelled X/test --truth X/ground_truth --rule iou
      inspect threshold --material riblet --value albedo=0.002 --apply batch/inspection/riblet
    """  # noqa: D301
    from inspect_cli.allocation import share_freed_memory

    share_freed_memory()
    from inspect_cli.batch.run import run_of
    from inspect_cli.engines import Hardware
    from inspect_cli.material.bundle import find_bundle
    from inspect_cli.material.materials import find_material
    from inspect_cli.scoring.model import load_model
    from inspect_cli.training.card import write_card

    request = _Request(good, labelled, truth, value or [], rule, margin, quantile, sigma, out)
    _check(request, bool(apply))
    chosen = find_material(material, models)
    hardware = Hardware(device, parse_batch(batch), engine, precision)
    model = load_model(chosen, find_bundle(chosen.folder, method), hardware, stride)
    source = good or labelled
    made = None if source is None else run_of(source, chosen.name, out).resolve()
    later = [run for run in apply or [] if made is not None and made.is_relative_to(run.resolve())]
    runs = _checked([run for run in apply or [] if run not in later], model)
    failed: list[str] = []
    calibration = None
    if good or labelled or value:
        if not os.access(model.bundle.folder, os.W_OK):
            raise OutputError(f"{model.bundle.folder}: cannot be written; copy the material into ./models first")
        calibration, failed = _new_limits(model, request)
    runs += _checked(later, model)  # scoring --good or --labelled may have made it
    if calibration is not None:
        bundle = model.bundle.with_calibration(calibration)
        write_card(bundle)
        model = replace(model, bundle=bundle)
        console.say(f"limits set: {calibration.origin}")
    code = _apply_to_all(model, runs)
    _tell(model, as_json)
    if failed:
        named = ", ".join(failed[:NAMED]) + (", ..." if len(failed) > NAMED else "")
        raise InputError(f"{len(failed)} part(s) could not be used and do not count in the limits: {named}")
    if code:
        raise typer.Exit(code)


def _checked(paths: Sequence[Path], model: ScoringModel) -> list[Path]:
    """Return the runs that paths mean, after seeing that limits can be applied to each, before any are stored."""
    from inspect_cli.batch.run import check_applicable
    from inspect_cli.store.run_lookup import find_run

    runs = [find_run(path) for path in paths]
    for run in runs:
        check_applicable(run, model)
    return runs


def _check(request: _Request, applies: bool) -> None:
    sources = [request.good, request.labelled, request.values or None]
    given = sum(source is not None for source in sources)
    if given > 1:
        raise UsageError("give one of --good, --labelled and --value")
    if not given and not applies:
        raise UsageError(
            "nothing to do: give --good FOLDER, --labelled FOLDER --truth FOLDER, --value or --apply RUN"
        )
    if request.out is not None and not request.good and not request.labelled:
        raise UsageError("--out belongs to --good or --labelled")
    if (request.labelled is None) != (request.truth is None):
        raise UsageError("--labelled and --truth go together")
    valid = LABELLED_RULES if request.labelled else GOOD_RULES
    if request.rule is not None and not request.good and not request.labelled:
        raise UsageError("--rule belongs to --good or --labelled")
    if request.rule is not None and request.rule not in valid:
        raise UsageError(f"--rule {request.rule!r} does not fit here: {nearest(request.rule, list(valid))}")
    for name in request.numbers():
        if request.good is None or len(request.numbers()) > 1 or request.rule not in (NUMBER_OF[name], None):
            raise UsageError(f"--{name} belongs to --good with --rule {NUMBER_OF[name]}")


def _new_limits(model: ScoringModel, request: _Request) -> tuple[Calibration, list[str]]:
    """Return the limits that are asked for, and the parts that could not be read for them."""
    from inspect_cli.batch.calibrate import limits_from_good_folder, limits_from_labelled_folder
    from inspect_cli.calibration.sources import calibrate_manual
    from inspect_cli.stopping import Stopped

    try:
        if request.good is not None:
            spec = _spec(model, request)
            rule = request.rule or next((NUMBER_OF[name] for name in request.numbers()), spec.rule)
            found = limits_from_good_folder(model, request.good, rule, spec, console, request.out)
            return found.calibration, found.failed
        if request.labelled is not None and request.truth is not None:
            rule = request.rule or LABELLED_RULES[0]
            found = limits_from_labelled_folder(model, request.labelled, request.truth, rule, console, request.out)
            return found.calibration, found.failed
    except Stopped as stopped:
        raise typer.Exit(stopped.exit_code) from None
    current = model.bundle.require_calibration()
    return calibrate_manual(model.tiles, current, _values(request.values), model.engine.precision), []


def _spec(model: ScoringModel, request: _Request) -> ThresholdSpec:
    """Return the recipe's rule with the numbers of the command line."""
    from pydantic import ValidationError

    from inspect_cli.recipe.schema import ThresholdSpec

    try:
        return ThresholdSpec.model_validate(model.recipe.threshold.model_dump() | request.numbers())
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{first['loc'][0]} {first['input']}: {first['msg']}") from error


def _values(texts: list[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for text in texts:
        name, _, number = (word.strip() for word in text.partition("="))
        if name in values:
            raise UsageError(f"--value {text!r}: map {name} has a value already; give one")
        try:
            values[name] = float(number)
        except ValueError:
            raise UsageError(f"--value {text!r}: write MAP=NUMBER, such as albedo=0.002") from None
    return values


def _apply_to_all(model: ScoringModel, runs: Sequence[Path]) -> int:
    """Judge runs again; return the exit code of the first that did not end well. A signal ends it."""
    ended = EXIT_DONE
    for run in runs:
        code = _apply(model, run)
        ended = ended or code
        if code in (EXIT_SIGINT, EXIT_SIGTERM):
            console.say("interrupted: `inspect score` goes on with the rest")
            break
    return ended


def _apply(model: ScoringModel, run: Path) -> int:
    """Judge a run again and say so; return the exit code."""
    from inspect_cli.batch.run import apply_limits

    def tell(outcome: Outcome) -> None:
        console.say(f"{outcome.verdict:<10} {outcome.part}" + (f"  {outcome.error}" if outcome.error else ""))

    summary, code = apply_limits(run, model, tell)
    console.say(f"{run}: judged again from stored maps: {summary.told()}")
    return code


def _tell(model: ScoringModel, as_json: bool) -> None:
    calibration = model.calibration()
    if as_json:
        console.out(json.dumps(json.loads(calibration.model_dump_json())))
        return
    for name, limit in calibration.limits.items():
        console.out(f"{name:>10}  limit {limit.pixel:.6g}  patch limit {limit.patch:.6g}")
    console.out(f"origin: {calibration.origin}; {calibration.promise}")
