"""Run a table again: check the request, measure what is not measured yet, keep every finished case."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inspect_cli.console import Teller
from inspect_cli.errors import UsageError, nearest
from inspect_cli.recipe import Budget
from inspect_cli.reproduce.experiment import Case, Experiment, Row
from inspect_cli.reproduce.layout import as_line
from inspect_cli.reproduce.ledger import Ledger, data_sha256
from inspect_cli.reproduce.registry import TABLES, Table
from inspect_cli.store.lock import lock_folder


@dataclass(frozen=True)
class Request:
    """What to run: where to, on which data, how long a training, which methods and how many seeds from ``seed``."""

    table: str
    out: Path
    data: Path | None = None
    budget: Budget | None = None
    seed: int = 0
    seeds: int = 1
    methods: tuple[str, ...] | None = None
    force: bool = False


def reproduce(request: Request, teller: Teller) -> list[Row]:
    """Run a table again and return its rows.

    ``<table>.csv`` in the folder holds all rows that were ever finished there. A case that was finished with the
    same data, budget and seed is not trained again unless ``force`` is set.

    Raises
    ------
    UsageError
        If the table, a method or the budget is unknown, or the data is missing or superfluous.
    NoInputError
        If the data is not what the table needs.
    LockedError
        If another run works in the folder.
    """
    table = _checked(request)
    experiment: Experiment = getattr(importlib.import_module(table.module), table.name)
    inputs = experiment.inputs(request.data)
    rows: list[Row] = []
    with lock_folder(request.out, f"{request.out}: another run is writing here; wait for it or choose another --out"):
        ledger = Ledger.open(request.out, request.table)
        digests = {name: data_sha256(path, request.out) for name, path in inputs.items()}
        for case in _cases(request, table, inputs):
            found = None if request.force else ledger.rows(case, digests[case.data])
            label = f"{case.data}, {case.method}, seed {case.seed}"
            teller.say(label if found is None else f"{label}: measured before")
            if found is None:
                found = experiment.measure(case, teller)
                ledger.add(case, digests[case.data], found)
            for row in found:
                teller.say(as_line(row))
            rows += found
        ledger.write_table()  # also where an earlier run was killed before it did
    return rows


def _checked(request: Request) -> Table:
    if request.table not in TABLES:
        raise UsageError(f"table {request.table!r} is unknown: {nearest(request.table, list(TABLES))}")
    table = TABLES[request.table]
    if table.data and request.data is None:
        raise UsageError(f"table {request.table} needs --data: {table.data}")
    if not table.data and request.data is not None:
        raise UsageError(f"--data: table {request.table} generates its data; leave it out")
    if request.methods == ():
        raise UsageError(f"--methods: name at least one of {', '.join(table.methods)}")
    for name in request.methods or ():
        if name not in table.methods:
            raise UsageError(f"--methods {name!r} is no row of {request.table}: {nearest(name, list(table.methods))}")
    return table


def _cases(request: Request, table: Table, inputs: dict[str, Path | None]) -> Iterator[Case]:
    budget = request.budget or Budget.parse(table.budget)
    for seed in range(request.seed, request.seed + request.seeds):
        for data, path in inputs.items():
            for method in request.methods or table.methods:
                yield Case(request.table, data, path, method, budget, seed, request.out)
