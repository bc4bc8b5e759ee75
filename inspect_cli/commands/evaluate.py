"""``inspect evaluate``: measure a run against the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from inspect_cli import console
from inspect_cli.errors import OutputError
from inspect_cli.evaluation.headings import HEADINGS

if TYPE_CHECKING:
    from inspect_cli.evaluation.metrics import ScoreHistogram

#: Columns of the first table, which fits in 80 characters: what is measured of a single map too.
_COLUMNS: Final = tuple(key for key in HEADINGS if key != "image_f1")


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a folder with exactly one run in it.")],
    truth: Annotated[
        Path,
        typer.Option(
            "--truth",
            metavar="FOLDER",
            help="Folder of masks (<part>_mask.png, also _label, _gt or <part>.png), or of a boxes.csv.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the JSON to this file as well.")
    ] = None,
) -> None:
    """Measure a run against masks or boxes of the real defects.

    Every metric is exact, over all pixels inside the region of interest. IoU, recall and precision are those
    of the run's own masks, of a single map those above its limit; the maxima are over all limits, halos
    included. AU-PRO is integrated up to a false positive rate of 30 %. A part without a mask is good. The result
    is also written to evaluation.json in the run folder, and the scores of good and defective patches are drawn in
    evaluation.png.

    \b
    Examples:
      inspect evaluate batch --truth batch_truth
      inspect evaluate batch/inspection/riblet --truth masks --json
    """  # noqa: D301
    from inspect_cli.evaluation.evaluate import evaluate_run
    from inspect_cli.pictures.plots import save_labelled_patches
    from inspect_cli.scoring.precision import code_value
    from inspect_cli.store.atomic import write_json
    from inspect_cli.store.layout import EVALUATION, EVALUATION_PICTURE, RUN_RECORD
    from inspect_cli.store.run_lookup import find_run

    folder = find_run(run)
    before = (folder / RUN_RECORD).read_bytes()
    patches: dict[str, ScoreHistogram] = {}
    result = evaluate_run(folder, truth, on_part=_tell_part, on_patches=patches.update)
    for doubt in result["doubts"]:
        console.warn(doubt)
    same = (folder / RUN_RECORD).read_bytes() == before
    if not same:
        console.warn(f"{folder}: the results changed while they were measured; run `inspect evaluate` again")
    not_kept: list[OutputError] = []

    def keep(path: Path, write: Callable[[Path], None]) -> None:
        try:
            write(path)
        except OutputError as error:  # what was measured is printed all the same
            not_kept.append(error)

    if same:
        shown = {name: (code_value(found.codes), found.good, found.defect) for name, found in patches.items()}
        keep(folder / EVALUATION_PICTURE, lambda path: save_labelled_patches(path, shown))
        keep(folder / EVALUATION, lambda path: write_json(path, result))
    if out is not None:
        keep(out, lambda path: write_json(path, result))
    console.out(_as_json(result) if as_json else _as_tables(result))
    if not_kept:
        raise not_kept[0]


def _tell_part(number: int, parts: int, part_id: str) -> None:
    console.say(f"[{number}/{parts}] {part_id}")


def _as_json(result: dict[str, Any]) -> str:
    import json

    return json.dumps(result, allow_nan=False)


def _as_tables(result: dict[str, Any]) -> str:
    """Lay the result out; plain text unless standard output is a terminal."""
    import sys

    from rich.console import Console

    terminal = sys.stdout.isatty()
    width = None if terminal else 200
    drawn = Console(force_terminal=terminal, width=width, markup=False, emoji=False, highlight=False)
    with drawn.capture() as captured:
        drawn.print(_overall_table(result), "")
        if result["by_kind"]:
            drawn.print(_kind_table(result), "")
        drawn.print(
            "{parts} parts: {good} good, {defective} defective; {undecided} undecided, "
            "{unfinished} unfinished".format_map(result)
        )
        drawn.print(_of_verdicts(result))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _of_verdicts(result: dict[str, Any]) -> str:
    """Say in words how the verdicts did."""
    good, defective = result["verdicts"]["good"], result["verdicts"]["defective"]
    text = f"verdicts: {defective['fail']} of {result['defective']} defective parts fail ({defective['pass']} pass), "
    text += f"{good['fail']} of {result['good']} good ones fail"
    return text if result["image_f1"] is None else f"{text}; image F1 {result['image_f1']:.3f}"


def _overall_table(result: dict[str, Any]) -> Any:
    table = _empty_table("map", [HEADINGS[key] for key in _COLUMNS])
    for name, metrics in {"fused": result, **result["by_map"]}.items():
        table.add_row(name, *(_number(metrics[key]) for key in _COLUMNS))
    return table


def _kind_table(result: dict[str, Any]) -> Any:
    """Pixel AUROC of every kind, fused and per map."""
    maps = list(result["by_map"])
    table = _empty_table("pixel AUROC", ["fused", *maps, "parts"])
    for kind, fused in result["by_kind"].items():
        each = [fused, *(result["by_kind_and_map"][kind][name] for name in maps)]
        table.add_row(kind, *(_number(m["pixel_auroc"]) for m in each), str(fused["defective"]))
    return table


def _empty_table(first: str, others: list[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading.replace(" ", "\n"), justify="right", vertical="bottom")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
