"""One page for one run: it opens anywhere, asks nothing of the network and prints as it stands."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from inspect_cli.errors import EXIT_CODES, EXIT_DEFECTS, EXIT_DONE
from inspect_cli.evaluation.headings import HEADINGS
from inspect_cli.pictures.colour import SCALE_MAX
from inspect_cli.report import embed, numerals
from inspect_cli.report.run_data import VERDICT_ORDER, PartRow, RunData, mapping, number
from inspect_cli.store.atomic import write_text
from inspect_cli.store.layout import EVALUATION_PICTURE, MASK, PART_RECORD, PARTS_FOLDER, REPORT
from inspect_cli.store.paths import check_is_text

_TEMPLATE: Final = "template.html.j2"
_HISTOGRAM: Final = "histogram.png"
_MOST_REGIONS: Final = 25
_MOST_FAILURES: Final = 30
_MOST_FILES: Final = 40

_Embed = Callable[[Path], embed.Embedded | None]

#: Pictures of a part in the order of their buttons: title -> (file, what it shows, how it is embedded).
_PICTURES: Final[dict[str, tuple[str, str, _Embed]]] = {
    "Overlay": ("overlay.png", "outline at the limit, halos included; regions numbered as in the table", embed.photo),
    "Heatmap": ("heatmap.png", "score from 0 to 2, the limit is 1, grey has no score", embed.photo),
    "Mask": (MASK, "white is above the limit, but for the halo of strong defects", embed.mask),
    "Image": ("image.png", "what was inspected", embed.photo),
}

#: Pictures that show one map.
_OF_ONE_MAP: Final = ("Overlay", "Image")

#: What a verdict means, in the order of the big numbers at the top.
_MEANINGS: Final = {
    "fail": "above the limit",
    "undecided": "could not be judged: look by hand",
    "error": "input could not be used",
    "pending": "still being written, or not reached: the next run takes it",
    "pass": "no region above the limit",
}

#: Metrics that are rates, in the order of the evaluation table.
_RATES: Final = tuple(key for key in HEADINGS if key != "iou_max_score")


@dataclass(frozen=True)
class Figure:
    """A picture of a part, or the reason why there is none."""

    title: str
    legend: str
    file: str
    picture: embed.Embedded | None


@dataclass(frozen=True)
class Link:
    """A file beside the page: what it is called and where it lies as seen from the page."""

    name: str
    href: str
    size_bytes: int


@dataclass(frozen=True)
class Section:
    """All that the page shows of one part."""

    rank: int
    row: PartRow
    readable: bool
    reasons: str
    peak: Mapping[str, Any]
    maps: Mapping[str, Mapping[str, Any]]
    figures: Sequence[Figure]
    histogram: Figure
    regions: Sequence[Mapping[str, Any]]
    region_count: int
    in_mm: bool
    timing: Sequence[tuple[str, float]]
    total_s: float | None
    files: Sequence[Link]
    has_pictures: bool

    @property
    def shape(self) -> float:
        """Width over height of the pictures."""
        shown = [figure.picture for figure in self.figures if figure.picture and figure.title != "Heatmap"]
        return shown[0].width_px / shown[0].height_px if shown else 1.5


def write_report(run: Path, out: Path | None = None, top: int = 50) -> Path:
    """Write the report of a run as one self-contained HTML page.

    Parameters
    ----------
    run
        Run folder as ``inspect score`` leaves it.
    out
        File to write; ``report.html`` in the run folder without it.
    top
        Number of parts shown with pictures, worst first; all parts stand in the table.

    Returns
    -------
    out
        The file written.

    Raises
    ------
    UsageError
        If a name is no valid UTF-8.
    NoInputError
        If the folder holds no ``run.json``.
    InputError
        If ``run.json`` or ``parts.csv`` cannot be read.
    OutputError
        If the page cannot be written.
    """
    page = out if out is not None else run / REPORT
    check_is_text(run, page)
    data = RunData(run)
    ranked = [(rank, row) for rank, row in enumerate(data.parts, start=1) if row.verdict not in ("error", "pending")]
    sections = [_section(data, rank, row, page.parent) for rank, row in ranked[: max(0, top)]]
    content = _environment().get_template(_TEMPLATE).render(
        title=f"{data.run.get('material', 'unnamed material')}: inspection report",
        run=data.run,
        calibration=mapping(data.run.get("calibration")),
        limits=mapping(mapping(data.run.get("calibration")).get("limits")),
        counts=_counts(data.run),
        meanings=_MEANINGS,
        ending=_ending(data.run),
        warnings=_texts(data.run.get("warnings")),
        batch_warnings=_texts(data.run.get("batch_warnings")),
        failures=[row for row in data.parts if row.verdict == "error"],
        most_failures=_MOST_FAILURES,
        evaluation=_evaluation_table(data.evaluation),
        evaluation_picture=None if data.evaluation is None else embed.plot(run / EVALUATION_PICTURE),
        evaluation_broken=data.evaluation is None and data.evaluation_file.exists(),
        parts=data.parts,
        in_mm=number(data.run.get("pixel_pitch_um")) is not None,
        sections=sections,
        shown={section.rank for section in sections},
        unshown=len(ranked) - len(sections),
        verdicts=[v for v in VERDICT_ORDER if v != "pending" or any(row.verdict == v for row in data.parts)],
        most_files=_MOST_FILES,
    )  # fmt: skip
    write_text(page, content)
    return page


def _counts(run: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return each verdict and its number of parts; pending ones are rare and shown if there are any."""
    counts = mapping(run.get("counts"))
    return [(verdict, counts.get(verdict)) for verdict in _MEANINGS if verdict != "pending" or counts.get(verdict)]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("inspect_cli.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(numerals.FILTERS)
    environment.filters["bar_percent"] = lambda score: f"{min(max(score, 0.0), SCALE_MAX) / SCALE_MAX:.1%}"
    return environment


def _ending(run: Mapping[str, Any]) -> str | None:
    """Return what the run's exit code warns of; None if it ended as it should."""
    code = run.get("exit_code")
    if code in (EXIT_DONE, EXIT_DEFECTS):
        return None
    if code not in EXIT_CODES:
        return "The run did not record how it ended; it may be incomplete. Run it again: it goes on."
    meaning, remedy = EXIT_CODES[code]
    return f"The run ended with exit code {code}: {meaning}. What to do: {remedy.replace('`', '')}."


def _section(data: RunData, rank: int, row: PartRow, page_folder: Path) -> Section:
    found = data.record(row.part)
    content = found.content if found else None
    record = content or {}
    folder = found.folder if found else data.folder / PARTS_FOLDER / "none"
    regions = [region for region in record.get("regions") or [] if isinstance(region, dict)]
    regions.sort(key=lambda region: -(number(region.get("score_max")) or 0.0))
    shown_map = str(mapping(record.get("peak")).get("map") or next(iter(mapping(record.get("maps"))), ""))
    timing = {name: number(value) for name, value in mapping(record.get("timing_s")).items()}
    return Section(
        rank=rank,
        row=row,
        readable=content is not None,
        reasons="; ".join(_texts(record.get("reasons"))) or row.reasons,
        peak=mapping(record.get("peak")),
        maps={name: mapping(value) for name, value in mapping(record.get("maps")).items()},
        figures=[_figure(folder, title, shown_map) for title in _PICTURES],
        histogram=Figure("Patch scores", "", _HISTOGRAM, embed.plot(folder / _HISTOGRAM)),
        regions=regions[:_MOST_REGIONS],
        region_count=int(number(record.get("region_count")) or len(regions)),
        in_mm=bool(regions) and all(number(region.get("x_mm")) is not None for region in regions),
        timing=[(name, value) for name, value in timing.items() if value is not None and name != "total"],
        total_s=timing.get("total"),
        files=_links(folder, page_folder) if found else [],
        has_pictures="pictures" in _texts(record.get("outputs", ["pictures"])),
    )


def _texts(value: Any) -> list[str]:
    """Return the entries of a JSON list as text; nothing for anything else."""
    return [str(entry) for entry in value] if isinstance(value, list) else []


def _figure(folder: Path, title: str, shown_map: str) -> Figure:
    """Return a picture of a part; the overlay and the image show ``shown_map``, the one with the highest score."""
    file, legend, load = _PICTURES[title]
    if shown_map and title in _OF_ONE_MAP:
        legend = f"map {shown_map}, {legend}"
    return Figure(title, legend, file, load(folder / file))


def _links(folder: Path, page_folder: Path) -> list[Link]:
    return [
        Link(
            name=file.relative_to(folder).as_posix(),
            href=quote(Path(os.path.relpath(file, page_folder)).as_posix()),
            size_bytes=file.stat().st_size,
        )
        for file in sorted(_own_files(folder))
    ]


def _own_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a part that are not hidden; the folders of other parts below its own are left out."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not Path(root, name, PART_RECORD).is_file()]
        files = (Path(root, name) for name in names if not name.startswith("."))
        yield from (file for file in files if file.is_file())


def _evaluation_table(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return headings, rows (name, kind of row, values) and the counts beside them."""
    if evaluation is None:
        return None
    groups = [("all maps together", "", evaluation)]
    groups += [(name, "map", mapping(value)) for name, value in mapping(evaluation.get("by_map")).items()]
    groups += [(name, "defect kind", mapping(value)) for name, value in mapping(evaluation.get("by_kind")).items()]
    keys = [key for key in _RATES if any(key in values for _, _, values in groups)]
    return {
        "headings": [HEADINGS[key] for key in keys],
        "rows": [(name, sort, [values.get(key) for key in keys]) for name, sort, values in groups],
        "counts": [
            (name, evaluation[name])
            for name in ("parts", "good", "defective", "undecided", "unfinished")
            if name in evaluation
        ],
    }
