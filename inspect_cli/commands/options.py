"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspect_cli.errors import UsageError

if TYPE_CHECKING:
    from inspect_cli.recipe import Budget

Models = Annotated[
    Path | None,
    typer.Option(
        "--models",
        help="Model store.",
        show_default="INSPECT_MODELS, else ./models and the store shipped with the program",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")]
Batch = Annotated[str, typer.Option("--batch", help="Tiles the network takes at once, or auto.")]
EngineName = Annotated[
    str, typer.Option("--engine", help="auto, torch or openvino; auto takes openvino on a CPU if it is installed.")
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="f32; faster, approximate: bf16 (all), f16 (openvino, cuda), tf32 (cuda). See inspect doctor.",
    ),
]
Method = Annotated[
    str | None,
    typer.Option("--method", help="Model to use if several were trained.", show_default="the newest"),
]
Stride = Annotated[
    int | None,
    typer.Option("--stride", help="Step between tiles, px.", show_default="the recipe's"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines on stdout.")]


def parse_batch(text: str) -> int:
    """Return the batch size, 0 for ``auto``."""
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch {text}: give auto or a whole number above 0")
    return int(text)


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height of ``WIDTHxHEIGHT``."""
    found = re.fullmatch(r"\s*([1-9]\d*)[xX]([1-9]\d*)\s*", text)
    if found is None:
        raise UsageError(f"--size {text}: give WIDTHxHEIGHT in px, such as 1200x800")
    return int(found[1]), int(found[2])


def check_name(name: str) -> None:
    """Raise UsageError unless ``name`` can be the name of a material, which is also a folder's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise UsageError(f"material {name!r}: a name holds letters, digits, '_' and '-' only")


def parse_budget(text: str) -> Budget:
    """Return what ``--budget`` says.

    Raises
    ------
    UsageError
        If it is no budget.
    """
    from inspect_cli.recipe import Budget

    try:
        return Budget.parse(text)
    except ValueError as error:
        raise UsageError(f"--budget {error}") from error


def parse_names(text: str | None, option: str | None = None) -> list[str] | None:
    """Return the names in a comma-separated list, None without one.

    Raises
    ------
    UsageError
        If there is no name in the list, and ``option`` says whose it is.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if option is not None and not names:
        raise UsageError(f"{option} {text!r}: name at least one, or leave the option out")
    return names
