"""Find the run folder that a user means."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from inspect_cli.errors import NoInputError, UsageError
from inspect_cli.store.layout import RUN_FOLDER, RUN_RECORD
from inspect_cli.store.paths import check_is_folder

#: Where a run may lie below a folder: an output folder, a batch, a folder of batches.
_BELOW: Final = (f"{RUN_FOLDER}/*/{RUN_RECORD}", f"*/{RUN_RECORD}", f"*/{RUN_FOLDER}/*/{RUN_RECORD}")


def find_run(path: Path) -> Path:
    """Return the run folder at ``path``, or the only one at the nearest place below it.

    A run folder holds ``run.json``. Below ``path`` it is looked for as ``inspection/<material>``, ``<name>``
    and ``<batch>/inspection/<material>``, in this order: the run of a batch goes before runs of its parts.

    Raises
    ------
    NoInputError
        If ``path`` does not exist, or there is no run in it.
    UsageError
        If there are several runs, which the message names, or the path is a file.
    """
    check_is_folder(path, "the folder that `inspect score` wrote")
    if (path / RUN_RECORD).is_file():
        return path
    for pattern in _BELOW:
        runs = sorted(record.parent for record in path.glob(pattern))
        if len(runs) > 1:
            raise UsageError(f"{path}: {len(runs)} runs in it; name one of {', '.join(map(str, runs))}")
        if runs:
            return runs[0]
    raise NoInputError(f"{path}: no run in it (no {RUN_RECORD}); run `inspect score` first")
