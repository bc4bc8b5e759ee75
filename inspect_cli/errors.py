"""Every way the program ends, in one tree and one table.

::

    InspectError                 70  a fault in the program itself
    ├── UsageError                1  the command line asks for something impossible
    ├── RecipeError               2  a recipe or configuration file is wrong
    ├── InputError                3  one input file or part cannot be used; the rest goes on
    │   ├── IncompleteError       3  an input is not whole, or was not left alone while it was read
    │   └── NoInputError          4  there is nothing usable to work on
    ├── ModelError                5  a model bundle is missing, damaged, foreign or untrained
    ├── OutputError               6  the output cannot be written, or the disk is full
    ├── WorkerError               7  a worker process died or the device gave up
    └── LockedError              75  another run holds the output folder

A message says what happened, where, and what to do next, on one line.
"""

from __future__ import annotations

import errno
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pydantic import ValidationError


class InspectError(Exception):
    """A fault with a message for the user; ``exit_code`` is how the process ends."""

    exit_code: int = 70


class UsageError(InspectError):
    """The command line asks for something impossible."""

    exit_code = 1


class RecipeError(InspectError):
    """A recipe or configuration file is wrong."""

    exit_code = 2


class InputError(InspectError):
    """One input cannot be used; the rest of the batch goes on."""

    exit_code = 3


class IncompleteError(InputError):
    """An input is not whole; if it changed a short while ago it may still be written."""


class ChangedError(IncompleteError):
    """A file changed while it was read: somebody is at work on it, however old it claims to be."""


class NoInputError(InputError):
    """There is nothing usable to work on."""

    exit_code = 4


class ModelError(InspectError):
    """A model bundle is missing, damaged, foreign or not trained."""

    exit_code = 5


class OutputError(InspectError):
    """The output cannot be written, or the disk is full."""

    exit_code = 6


class WorkerError(InspectError):
    """A worker process died or the device gave up."""

    exit_code = 7


class LockedError(InspectError):
    """Another run holds the output folder."""

    exit_code = 75


EXIT_DONE: Final = 0
EXIT_DEFECTS: Final = 8
EXIT_DOUBT: Final = 9
EXIT_UNDECIDED: Final = 10
EXIT_INTERNAL: Final = 70
EXIT_SIGINT: Final = 130
EXIT_SIGTERM: Final = 143

#: Exit code -> (meaning, what to do). The documentation is generated from this table.
EXIT_CODES: Final[dict[int, tuple[str, str]]] = {
    EXIT_DONE: ("done", "nothing"),
    UsageError.exit_code: ("usage: the command line is wrong", "read the message; see `--help`"),
    RecipeError.exit_code: (
        "recipe or configuration is wrong",
        "correct the key that the message names; `inspect recipe check`",
    ),
    InputError.exit_code: (
        "an input could not be used; of a batch the rest is complete, and may hold parts that fail",
        "read the verdicts in `parts.csv`; mend the parts named there or in the message, and run again",
    ),
    NoInputError.exit_code: ("no usable input", "check the folder and the recipe's file patterns"),
    ModelError.exit_code: ("model refused or missing", "train the material, or restore its bundle"),
    OutputError.exit_code: (
        "output not writable or disk full",
        "free space or mend the permissions, run again; earlier results are intact",
    ),
    WorkerError.exit_code: (
        "a worker died or the device gave up",
        "run again, with a smaller `--batch` (`train`: `training.batch` in the recipe)",
    ),
    EXIT_DEFECTS: (
        "defects found (only with `--fail-on-defect`; 3 goes first)",
        "look at the parts with verdict `fail`",
    ),
    EXIT_DOUBT: (
        "trained, but the model hardly tells defects from good material (only `train`)",
        "read the warnings; train longer, on more parts, or with `--method auto`; until then no part passes",
    ),
    EXIT_UNDECIDED: (
        "no part failed, but some are undecided (only with `--fail-on-defect`)",
        "inspect those parts, they may have regions above the limit; the reasons are in `parts.csv`: lamp, camera, "
        "ROI, or a model that failed its check",
    ),
    EXIT_INTERNAL: ("internal fault", "report it with the log"),
    LockedError.exit_code: ("another run holds the output folder", "wait for it, or choose another `--out`"),
    EXIT_SIGINT: ("interrupted (SIGINT)", "run again: it goes on where it stopped (`train`: with `--resume`)"),
    EXIT_SIGTERM: ("terminated (SIGTERM)", "run again: it goes on where it stopped (`train`: with `--resume`)"),
}


def exit_code_of(error: BaseException) -> int:
    """Return the code that the program ends with when ``error`` leaves it."""
    if isinstance(error, BrokenPipeError):  # who read the output has left: that is no fault
        return EXIT_DONE
    own = getattr(error, "exit_code", None)
    if isinstance(own, int):
        return own
    if isinstance(error, KeyboardInterrupt):
        return EXIT_SIGINT
    if is_out_of_memory(error):
        return WorkerError.exit_code
    if isinstance(error, OSError) and is_full(error):
        return OutputError.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        return NoInputError.exit_code
    return EXIT_INTERNAL


def is_full(error: OSError) -> bool:
    """Whether the system refused to write for want of space, or because nothing may be written there at all."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine's or the device's memory did not suffice; torch's own type is known by its name."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error) or "Insufficient memory" in str(error)


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Return the key of the first thing that is wrong, dots between its levels (empty for all), and what it is."""
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])), str(first["msg"]).removeprefix("Value error, ")


def nearest(name: str, valid: list[str]) -> str:
    """Return a hint that names the valid choices and, if one is near, the likely one.

    >>> nearest("riblt", ["riblet", "steel"])
    "did you mean 'riblet'? Valid: riblet, steel"
    """
    listed = "Valid: " + (", ".join(sorted(valid)) or "none")
    close = get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}? {listed}" if close else listed
