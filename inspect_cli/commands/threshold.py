"""``inspect threshold``: set the limits, or apply them to a finished run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inspect_cli.commands.options import Batch, Device, Json, Method, Models, Stride, parse_batch
from inspect_cli.errors import NoInputError, UsageError, nearest

if TYPE_CHECKING:
    from inspect_cli.outputs.run import RunSummary
    from inspect_cli.scoring.model import ScoringModel
    from inspect_cli.store.manifest import Calibration

GOOD_RULES = ("max", "quantile", "sigma")
LABELLED_RULES = ("iou", "f1")


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
        typer.Option("--value", help="A limit by hand, MAP=NUMBER in raw residual units; repeat for each map."),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            "--rule",
            help="max, quantile or sigma (with --good); iou or f1 (with --labelled).",
            show_default="the recipe's, or iou",
        ),
    ] = None,
    margin: Annotated[float | None, typer.Option("--margin", help="Factor of rule max.")] = None,
    quantile: Annotated[float | None, typer.Option("--quantile", help="Share of good parts that must pass.")] = None,
    sigma: Annotated[float | None, typer.Option("--sigma", help="Standard deviations of rule sigma.")] = None,
    apply: Annotated[
        list[Path] | None,
        typer.Option("--apply", help="Run to judge again from its stored maps; the network does not run."),
    ] = None,
    models: Models = None,
    method: Method = None,
    stride: Stride = None,
    device: Device = "auto",
    batch: Batch = "auto",
    as_json: Json = False,
) -> None:
    """Set the limits of a material, with their origin, and apply them.

    The parts of --good or --labelled are scored first (what is done already is not scored again). The
    limits are stored in the model; a histogram with the limits drawn is written beside it.

    \b
    Examples:
      inspect threshold --material riblet --good batch/good --rule max --margin 1.2
      inspect threshold --material riblet --good batch/good --rule quantile --quantile 0.95
      inspect threshold --material riblet --labelled X/test --truth X/ground_truth --rule iou
      inspect threshold --material riblet --value albedo=0.002 --apply batch/inspection/riblet
    """  # noqa: D301
    from inspect_cli import console
    from inspect_cli.scoring.model import load_model
    from inspect_cli.store.bundle import find_bundle
    from inspect_cli.store.materials import find_material

    request = _Request(good, labelled, truth, value or [], rule, margin, quantile, sigma)
    _check(request, bool(apply))
    chosen = find_material(material, models)
    model = load_model(chosen, find_bundle(chosen.folder, method), device, parse_batch(batch), stride)
    if good or labelled or value:
        calibration = _new_limits(model, request)
        model = _stored(model, calibration)
        console.say(f"limits set: {calibration.origin}")
    for run in apply or []:
        _apply(model, run)
    _tell(model, as_json)


def _check(request: _Request, applies: bool) -> None:
    sources = [request.good, request.labelled, request.values or None]
    given = sum(source is not None for source in sources)
    if given > 1:
        raise UsageError("give one of --good, --labelled and --value")
    if not given and not applies:
        raise UsageError(
            "nothing to do: give --good FOLDER, --labelled FOLDER --truth FOLDER, --value or --apply RUN"
        )
    if (request.labelled is None) != (request.truth is None):
        raise UsageError("--labelled and --truth go together")
    valid = LABELLED_RULES if request.labelled else GOOD_RULES
    if request.rule is not None and (request.rule not in valid or (not request.good and not request.labelled)):
        raise UsageError(f"--rule {request.rule!r} does not fit here: {nearest(request.rule, list(valid))}")
    used = {"margin": "max", "quantile": "quantile", "sigma": "sigma"}
    for name, needed in used.items():
        if getattr(request, name) is not None and request.rule not in (needed, None):
            raise UsageError(f"--{name} belongs to --rule {needed}")


def _new_limits(model: ScoringModel, request: _Request) -> Calibration:
    from inspect_cli.calibration.sources import calibrate_labelled, calibrate_manual

    if request.good is not None:
        return _from_good(model, request, request.good)
    if request.labelled is not None and request.truth is not None:
        from inspect_cli.evaluation.evaluate import evaluate_run
        from inspect_cli.evaluation.truth import Truth

        summary = _score(model, request.labelled)
        evaluation = evaluate_run(summary.run, request.truth)
        calibration = calibrate_labelled(
            model.recipe, model.calibration(), evaluation, request.rule or "iou", str(request.labelled)
        )
        known = Truth.open(request.truth)
        records = [o.record for o in summary.outcomes if o.record is not None]
        good = [r for r in records if not known.has(str(r["part"]))]
        defective = [r for r in records if known.has(str(r["part"]))]
        _draw(model, calibration, good, defective)
        return calibration
    return calibrate_manual(model.recipe, model.bundle.require_calibration(), _values(request.values))


def _values(texts: list[str]) -> dict[str, float]:
    values = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            values[name.strip()] = float(number)
        except ValueError:
            raise UsageError(f"--value {text!r}: write MAP=NUMBER, such as albedo=0.002") from None
    return values


def _from_good(model: ScoringModel, request: _Request, good: Path) -> Calibration:
    from inspect_cli.calibration.sources import calibrate_good, peaks_of
    from inspect_cli.outputs.run import part_folder

    spec = model.recipe.threshold.model_copy(
        update={key: given for key in ("margin", "quantile", "sigma") if (given := getattr(request, key)) is not None}
    )
    named = [key for key in ("margin", "quantile", "sigma") if getattr(request, key) is not None]
    rule = request.rule or ({"margin": "max"}.get(named[0], named[0]) if named else spec.rule)
    summary = _score(model, good)
    records = [o.record for o in summary.outcomes if o.record is not None]
    _warn_if_trained_on(model, records)
    maps = list(model.maps)
    tables = [part_folder(summary.run, str(r["part"])) / "patches.parquet" for r in records]
    peaks = peaks_of(records, tables, maps)
    calibration = calibrate_good(peaks, model.recipe, rule, spec, len(records), str(good))
    _draw(model, calibration, records, None)
    return calibration


def _draw(
    model: ScoringModel,
    calibration: Calibration,
    good: list[dict[str, Any]],
    defective: list[dict[str, Any]] | None,
) -> None:
    """Write the histogram of the parts' peaks with the limits drawn, beside the model."""
    from inspect_cli import console
    from inspect_cli.calibration.sources import raw_peaks
    from inspect_cli.report.plots import save_threshold_histogram

    maps = list(model.maps)
    picture = model.bundle.folder / "threshold.png"
    limits = {name: limit.pixel for name, limit in calibration.limits.items()}
    bad = None if defective is None else raw_peaks(defective, maps)
    save_threshold_histogram(picture, raw_peaks(good, maps), limits, bad)
    console.say(f"histogram of the parts' peaks: {picture}")


def _score(model: ScoringModel, folder: Path) -> RunSummary:
    """Score a folder into its run folder; done parts are not scored again."""
    from inspect_cli import console
    from inspect_cli.images import discover_parts
    from inspect_cli.images.parts import RUN_FOLDER
    from inspect_cli.outputs.finish import score_batch

    parts = discover_parts(folder, model.maps)
    run = folder / RUN_FOLDER / model.material.name
    console.say(f"scoring {len(parts)} part(s) of {folder}")
    summary, exit_code = score_batch(
        run, folder, parts, model, lambda o: console.say(f"{o.part}: {o.error or 'scored'}")
    )
    if summary.interrupted:
        raise typer.Exit(exit_code)
    if not any(o.record for o in summary.outcomes):
        raise NoInputError(f"{folder}: no part could be scored: {summary.outcomes[0].error}")
    return summary


def _warn_if_trained_on(model: ScoringModel, records: list[dict[str, Any]]) -> None:
    from inspect_cli import console

    seen = {file.sha256 for file in model.bundle.manifest.training_set if file.use == "train"}
    known = [r["part"] for r in records if any(entry["sha256"] in seen for entry in r["maps"].values())]
    if known:
        console.warn(
            f"{len(known)} of {len(records)} good parts were trained on; their scores are lower than those of new "
            "parts, so the limits may be too tight: use other good parts"
        )


def _stored(model: ScoringModel, calibration: Calibration) -> ScoringModel:
    from dataclasses import replace

    from inspect_cli.training.card import write_card

    bundle = model.bundle.with_calibration(calibration)
    write_card(bundle)
    return replace(model, bundle=bundle)


def _apply(model: ScoringModel, run: Path) -> None:
    from inspect_cli import console
    from inspect_cli.outputs.finish import apply_limits
    from inspect_cli.outputs.tables import finished_parts, run_input
    from inspect_cli.store.run_lookup import find_run

    found = find_run(run)
    parts = finished_parts(found)
    summary = apply_limits(found, run_input(found), parts, model, lambda o: console.say(f"{o.verdict:<10} {o.part}"))
    counts = ", ".join(f"{number} {verdict}" for verdict, number in summary.counts().items() if number)
    console.say(f"{found}: judged again from stored maps: {counts}")


def _tell(model: ScoringModel, as_json: bool) -> None:
    calibration = model.calibration()
    if as_json:
        typer.echo(json.dumps(json.loads(calibration.model_dump_json())))
        return
    for name, limit in calibration.limits.items():
        typer.echo(f"{name:>10}  limit {limit.pixel:.6g}  patch limit {limit.patch:.6g}")
    typer.echo(f"origin: {calibration.origin}; {calibration.promise}")
