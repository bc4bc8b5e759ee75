"""``inspect score``: find defects in a batch."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    parse_names,
)
from inspect_cli.errors import InspectError, UsageError, nearest

if TYPE_CHECKING:
    from inspect_cli.batch.summary import Outcome, RunSummary
    from inspect_cli.scoring.model import ScoringModel

#: What `--json` tells of a part's record, beside the scores of its maps.
_TOLD = {"score", "peak", "reasons", "region_count", "defect_area_px", "defect_area_mm2", "timing_s"}
#: Colour of a verdict on a terminal; elsewhere the lines are plain.
COLOURS = {"pass": "green", "fail": "red", "undecided": "yellow", "error": "magenta", "pending": "cyan"}


def score(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Batch folder, read recursively.", show_default=False)
    ],
    material: Annotated[
        str | None,
        typer.Option(
            "--material",
            "-m",
            help="Material.",
            show_default="the folder's inspect.yaml, or the only one trained",
        ),
    ] = None,
    models: Models = None,
    method: Method = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder.", show_default="FOLDER/inspection/MATERIAL"),
    ] = None,
    stride: Stride = None,
    device: Device = "auto",
    batch: Batch = "auto",
    engine: EngineName = "auto",
    precision: Precision = "f32",
    settle: Annotated[
        float,
        typer.Option(
            "--settle-s",
            min=0,
            envvar="INSPECT_SETTLE_S",
            help="Seconds a part's files must be unchanged; a part still being written is left to the next run.",
        ),
    ] = 2.0,
    max_mpixels: Annotated[
        float | None,
        typer.Option(
            "--max-mpixels",
            min=0,
            max=4096,
            help="Refuse images above so many megapixels, from their header.",
            show_default="4096",
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait-s", min=0, help="Seconds to wait for another run that holds the run folder.")
    ] = 0.0,
    metrics: Annotated[
        Path | None,
        typer.Option("--metrics-file", help="Prometheus text file to write at the end (textfile collector)."),
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log-file", help="Log file, one line a part; rotated at 5 MB, 5 are kept.")
    ] = None,
    outputs: Annotated[
        str,
        typer.Option(
            "--outputs",
            help="Large files to write for each part: maps (raw, for new limits without the network), heatmap (for "
            "inspect evaluate), pictures (for the report); all, or none. Tables and mask are always written.",
        ),
    ] = "all",
    force: Annotated[bool, typer.Option("--force", help="Score again what is done already.")] = False,
    fail_on_defect: Annotated[
        bool,
        typer.Option(
            "--fail-on-defect",
            help="End with exit code 8 if a part fails, 10 if none does but one is undecided (3 goes first).",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Score a batch of parts and give each one a verdict.

    Writes heatmaps, masks, histograms, regions and tables, and prints one line a part. Parts that are done are
    skipped; a part that cannot be read is named and the rest goes on. Stop with Ctrl-C: the part in hand is
    finished, the next run goes on from there.

    \b
    Examples:
      inspect score sample_data/riblet/test --material riblet
      inspect score batch/ --material riblet --out results/monday
      inspect score batch/ --material riblet --outputs pictures
      inspect score batch/ --material riblet --json | jq .verdict
    """  # noqa: D301
    from inspect_cli.allocation import share_freed_memory

    share_freed_memory()
    from inspect_cli.batch.monitor import Monitor
    from inspect_cli.batch.run import run_of, score_batch, withdraw_replaced
    from inspect_cli.engines import Hardware
    from inspect_cli.images import discover_parts
    from inspect_cli.images.parts import unused_images
    from inspect_cli.material.bundle import find_bundle
    from inspect_cli.material.materials import choose_material
    from inspect_cli.scoring.model import load_model
    from inspect_cli.store.paths import check_is_folder

    with Monitor(metrics, log, folder) as monitor:
        kept = _outputs(outputs)
        check_is_folder(folder)
        hardware = Hardware(device, parse_batch(batch), engine, precision)
        try:
            chosen = choose_material(material, folder, models)
            model = load_model(chosen, find_bundle(chosen.folder, method), hardware, stride, max_mpixels)
        except InspectError:
            withdraw_replaced(folder, material, out)
            raise
        parts = discover_parts(folder, model.maps, chosen.recipe.maps)
        run = run_of(folder, chosen.name, out)
        _announce(len(parts), run, model)
        without_verdict = unused_images(folder, parts).told(chosen.recipe.maps)
        for text in without_verdict:
            console.warn(text)
            monitor.warn(text)
        order = {part.id: number for number, part in enumerate(parts)}

        def tell(outcome: Outcome) -> None:
            monitor.part(outcome)
            _tell(outcome, as_json)

        with console.progress("scoring") as update:
            summary, exit_code = score_batch(
                run,
                folder,
                parts,
                model,
                on_part=tell,
                on_rows=lambda part, share: update((order[part] + share) / len(parts), part),
                force=force,
                fail_on_defect=fail_on_defect,
                settle_s=settle,
                wait_s=wait,
                outputs=kept,
                warnings=without_verdict,
            )
        monitor.count(summary)
        _finish(summary, exit_code)


def _outputs(text: str) -> frozenset[str]:
    """Return the outputs that a text names."""
    from inspect_cli.store.layout import ALL_OUTPUTS

    if text in ("all", "none"):
        return ALL_OUTPUTS if text == "all" else frozenset()
    names = parse_names(text) or []
    for name in names:
        if name not in ALL_OUTPUTS:
            raise UsageError(f"--outputs: {nearest(name, sorted(ALL_OUTPUTS))}")
    if not names:
        raise UsageError(f"--outputs: give {', '.join(sorted(ALL_OUTPUTS))}, all or none")
    return frozenset(names)


def _announce(count: int, run: Path, model: ScoringModel) -> None:
    """Say what is about to happen, and what there is to know about the model."""
    engine = model.engine
    console.say(
        f"{count} part(s); model {model.bundle.folder}; {engine.name} on {engine.device_name}, {engine.precision}; "
        f"results {run}"
    )
    calibration = model.calibration()
    if calibration.provisional:
        console.warn("the limits are provisional; set them from good parts with `inspect threshold`")
    for warning in model.cautions:
        console.warn(warning)


def _tell(outcome: Outcome, as_json: bool) -> None:
    """Print one line a part on stdout."""
    from inspect_cli.report import numerals

    record = outcome.record
    if as_json:
        line: dict[str, Any] = {
            "part": outcome.part,
            "verdict": outcome.verdict,
            "error": outcome.error,
            "unchanged": outcome.unchanged,
        }
        if record is not None:
            line |= record.model_dump(include=_TOLD)
            line["maps"] = {name: entry.score for name, entry in record.maps.items()}
        console.out(json.dumps(line))
        return
    words = [f"{typer.style(f'{outcome.verdict:<10}', fg=COLOURS[outcome.verdict])} {console.one_line(outcome.part)}"]
    if record is None:
        console.out(f"{words[0]}  {console.one_line(outcome.error or '')}")
        return
    if record.score is not None:
        words.append(f"score={numerals.score(record.score)} map={record.peak_map}")
    words.append(f"regions={record.region_count} seconds={record.seconds:.1f}")
    if outcome.unchanged:
        words.append("(done before)")
    if outcome.verdict != "fail" and record.reasons:
        words.append("; ".join(record.reasons))
    console.out("  ".join(words))


def _finish(summary: RunSummary, exit_code: int) -> None:
    quoted = shlex.quote(str(summary.run))
    console.say(f"{summary.told() or 'nothing scored'} in {summary.seconds:.0f} s; next: inspect report {quoted}")
    if summary.interrupted:
        console.say("interrupted: run again to go on with the rest")
    raise typer.Exit(exit_code)
