"""Which tables can be run again, and the paper's numbers beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from inspect_cli.errors import UsageError, nearest
from inspect_cli.reproduce.synthetic import measure_synthetic
from inspect_cli.store.atomic import write_text
from inspect_cli.training.train import Teller


@dataclass(frozen=True)
class Row:
    """One measured line of a table beside the paper's."""

    data: str
    method: str
    recall: float
    iou: float
    train_s: float
    steps: int
    paper_recall: float
    paper_iou: float
    paper_train_s: float
    seed: int


@dataclass(frozen=True)
class Table:
    """A table of a paper: what it shows, where it stands, how its rows are made."""

    about: str
    budget: str
    rows: Callable[[Path, str, int, Teller], Iterator[Row]]


#: IND Table 1: (data, method) -> (A, IoU, training time in seconds).
CHESS_NOISE: Final = {
    ("chess", "cae"): (0.9487, 0.7975, 212.0),
    ("chess", "vae"): (0.9492, 0.7995, 213.0),
    ("chess", "aae"): (0.9499, 0.7998, 1223.0),
    ("noise", "cae"): (0.9093, 0.7594, 216.0),
    ("noise", "vae"): (0.8797, 0.7698, 220.0),
    ("noise", "aae"): (0.9218, 0.7743, 1227.0),
}


def chess_noise(out: Path, budget: str, seed: int, teller: Teller) -> Iterator[Row]:
    """Yield the six rows of IND Table 1; all methods share the data, the steps and the step size."""
    for (data, method), (recall, iou, seconds) in CHESS_NOISE.items():
        teller.say(f"{data}, {method}")
        found = measure_synthetic(out, data, method, budget, seed, teller)
        yield Row(data, method, found.recall, found.iou, found.train_s, found.steps, recall, iou, seconds, seed)


TABLES: Final[dict[str, Table]] = {
    "chess-noise": Table(
        "IND Table 1: A, IoU and training time of CAE, VAE and AAE on the synthetic images", "1500steps", chess_noise
    ),
}


def reproduce(name: str, out: Path, budget: str | None, seed: int, teller: Teller) -> list[Row]:
    """Run a table again into ``out`` and write ``<name>.csv``; return its rows.

    Raises
    ------
    UsageError
        If no such table can be run again.
    """
    if name not in TABLES:
        raise UsageError(f"table {name!r} is unknown: {nearest(name, list(TABLES))}")
    table = TABLES[name]
    rows = []
    for row in table.rows(out, budget or table.budget, seed, teller):
        rows.append(row)
        write_text(out / f"{name}.csv", _csv(rows))
    return rows


def _csv(rows: list[Row]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return buffer.getvalue()
