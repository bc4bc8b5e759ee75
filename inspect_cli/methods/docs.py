"""``docs/methods.md``: what each method is, what it reached, and its settings."""

from __future__ import annotations

import csv
import inspect
import json
from pathlib import Path
from typing import Final

from inspect_cli.methods.registry import method_class, method_entries
from inspect_cli.recipe.docs import fields_table

#: Figures of ``bench/methods_table.py``.
MEASURED: Final = Path(__file__).resolve().parents[2] / "bench" / "methods.csv"


def methods_markdown() -> str:
    """Return the methods, what they reached, and their settings as a Markdown page."""
    lines = [
        "# Methods\n\nA method is chosen by `method.name` in the recipe or by `inspect train --method`; its settings "
        "stand under `method.settings`. Sources are the papers named at the end of the README. This page is "
        "generated from the code and from `bench/methods.csv` (`make docs`).\n",
        "| method | source | idea | when to use it |\n| --- | --- | --- | --- |",
        *(f"| [`{n}`](#{n}) | {e.source} | {e.idea} | {e.use} |" for n, e in method_entries().items()),
        "",
        measured_markdown(),
    ]
    for name, entry in method_entries().items():
        idea, settings = entry.idea[0].upper() + entry.idea[1:], fields_table(method_class(name).Settings)
        lines.append(f"## `{name}`\n\n{idea} ({entry.source}).\n\n{_about(name)}\n\n{settings}")
    return "\n".join(lines)


def _about(name: str) -> str:
    """Return the description of a method's class."""
    return inspect.cleandoc(method_class(name).__doc__ or "")


def measured_markdown() -> str:
    """Return the table of what every method reached in the same time on the same data."""
    with MEASURED.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return ""
    sets = list(dict.fromkeys(row["data"] for row in rows))
    found = {(row["data"], row["method"]): row for row in rows}
    head = [f"{data}: pixel / image AUROC" for data in sets]
    lines = [
        "## What they reached\n",
        _conditions(rows),
        "| method | " + " | ".join(head) + " | s per megapixel |",
        "| --- |" + " ---: |" * (len(sets) + 1),
    ]
    for name in method_entries():
        reached = [found.get((data, name)) for data in sets]
        cells = [
            "-" if row is None else f"{_short(row['pixel_auroc'])} / {_short(row['image_auroc'])}" for row in reached
        ]
        cost = [float(row["score_s_per_mpx"]) for row in reached if row is not None]
        cells.append(f"{min(cost):.1f}" if cost else "-")
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _conditions(rows: list[dict[str, str]]) -> str:
    first = rows[0]
    narrow = {row["method"]: json.loads(row["settings"]) for row in rows if row["settings"] != "{}"}
    widths = "".join(f", `{name}` with width {settings['width']}" for name, settings in sorted(narrow.items()))
    return (
        f"- Each was trained for {first['budget']} (all maps together) on {first['threads']} core of a server CPU, "
        f"seed {first['seed']}; other work ran on the other core. This says what to expect for little time, not what "
        "a method can reach.\n"
        "- Tiles suit the method (128 px at stride 64; of features the image's shorter side), scores are smoothed by "
        f"4 px, settings are the default ones{widths}.\n"
        "- fabric_00 has the ROI rule `saturated`.\n"
        "- `cnn` learns from every second defective part and is measured on the others.\n"
        "- An AUROC of .5 is chance.\n\n"
        "`python bench/methods_table.py --data DATA --budget 60s` makes the figures again; rows that "
        "`bench/methods.csv` has are kept.\n"
    )


def _short(number: str) -> str:
    return f"{float(number):.3f}".removeprefix("0") if number else "-"
