"""The finished cases of a table, so that a run that was ended goes on where it stopped."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from inspect_cli import __version__
from inspect_cli.errors import InputError
from inspect_cli.reproduce.experiment import Case, Row
from inspect_cli.store.atomic import write_json, write_text
from inspect_cli.store.cells import csv_text
from inspect_cli.store.digest import file_sha256
from inspect_cli.store.layout import RUN_FOLDER


class Entry(BaseModel):
    """A finished case, what it was made by and from, and its rows."""

    data: str
    method: str
    budget: str
    seed: int
    tool: str
    data_sha256: str
    rows: list[Row]

    def is_of(self, case: Case) -> bool:
        """Whether this is the entry of a case, whatever it was made from."""
        own = (self.data, self.method, self.budget, self.seed)
        return own == (case.data, case.method, str(case.budget), case.seed)


@dataclass
class Ledger:
    """Finished cases in ``<table>.json``, their rows in ``<table>.csv``."""

    folder: Path
    table: str
    entries: list[Entry]

    @classmethod
    def open(cls, folder: Path, table: str) -> Ledger:
        """Read the ledger of a table, empty if there is none.

        Raises
        ------
        InputError
            If it is damaged.
        """
        path = folder / f"{table}.json"
        if not path.is_file():
            return cls(folder, table, [])
        try:
            return cls(folder, table, TypeAdapter(list[Entry]).validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            raise InputError(f"{path}: is damaged; remove it, and the rows are measured again") from error

    def rows(self, case: Case, data_sha256: str) -> list[Row] | None:
        """Return the rows of a case if it was finished with this data by this version, else None."""
        for entry in self.entries:
            if entry.is_of(case) and (entry.tool, entry.data_sha256) == (__version__, data_sha256):
                return entry.rows
        return None

    def add(self, case: Case, data_sha256: str, rows: list[Row]) -> None:
        """Note a finished case in place of what was known of it, and write both files."""
        kept = [entry for entry in self.entries if not entry.is_of(case)]
        new = Entry(
            data=case.data,
            method=case.method,
            budget=str(case.budget),
            seed=case.seed,
            tool=__version__,
            data_sha256=data_sha256,
            rows=rows,
        )
        self.entries = [*kept, new]
        write_json(self.folder / f"{self.table}.json", [entry.model_dump() for entry in self.entries])
        self.write_table()

    def write_table(self) -> None:
        """Write the rows as CSV."""
        every = [row for entry in self.entries for row in entry.rows]
        columns = list(dict.fromkeys(column for row in every for column in row))
        write_text(self.folder / f"{self.table}.csv", csv_text(columns, every))


def data_sha256(path: Path | None, out: Path) -> str:
    """Return the sha256 of a file, or of the names and contents below a folder; empty for no data.

    Hidden files, results of `inspect score` and what lies below ``out`` do not count.
    """
    if path is None:
        return ""
    if path.is_file():
        return file_sha256(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        parts = file.relative_to(path).parts
        own = RUN_FOLDER in parts or file.absolute().is_relative_to(out.absolute())
        if file.is_file() and not own and not any(part.startswith(".") for part in parts):
            digest.update(f"{'/'.join(parts)}\0{file_sha256(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
