"""The command tree and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from inspect_cli import TOOL
from inspect_cli.commands.augment import augment
from inspect_cli.commands.bench import app as bench_app
from inspect_cli.commands.doctor import doctor
from inspect_cli.commands.evaluate import evaluate
from inspect_cli.commands.export import export
from inspect_cli.commands.recipe import app as recipe_app
from inspect_cli.commands.report import report
from inspect_cli.commands.reproduce import reproduce
from inspect_cli.commands.sample import sample
from inspect_cli.commands.score import score
from inspect_cli.commands.threshold import threshold
from inspect_cli.commands.tile import tile
from inspect_cli.commands.train import train
from inspect_cli.console import escape_what_streams_cannot_write, replace_closed_streams, say
from inspect_cli.errors import (
    EXIT_DONE,
    InspectError,
    UsageError,
    exit_code_of,
    is_full,
    is_out_of_memory,
)
from inspect_cli.processors import sleep_while_waiting
from inspect_cli.stopping import SignalStop, stopped_by_signals
from inspect_cli.store.atomic import output_error

app = typer.Typer(
    name="inspect",
    help="Finds defects in batches of registered maps (albedo, normals, gradient, curvature) with networks "
    "trained on good parts. First steps: `inspect sample riblet --out sample --size 384x256`, "
    "`inspect score sample/test --material riblet`, `inspect report sample/test`.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train, augment, score, threshold, evaluate, report, export, tile, sample, reproduce, doctor):
    app.command()(command)
app.add_typer(recipe_app, name="recipe")
app.add_typer(bench_app, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(TOOL)
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a fault.")] = False,
) -> None:
    """Hold the options of all commands."""
    if debug:
        os.environ["INSPECT_DEBUG"] = "1"


def main(arguments: list[str] | None = None) -> None:
    """Run the program and exit: the boundary where an error becomes a line and an exit code."""
    replace_closed_streams()
    escape_what_streams_cannot_write()
    if os.name == "nt":
        sys.exit(_told("error: runs on Linux and macOS; on Windows use WSL", UsageError.exit_code))
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the program and return its exit code."""
    sleep_while_waiting()
    try:
        with stopped_by_signals():
            result: Any = app(arguments, prog_name="inspect", standalone_mode=False)
    except InspectError as error:
        return _told(f"error: {' '.join(str(error).split())}", error.exit_code)
    except (KeyboardInterrupt, SignalStop) as error:
        return _told("stopped by a signal; run again to go on (inspect train: with --resume)", exit_code_of(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: end in silence
        return 0
    except Exception as error:
        return _unexpected(error)
    return result if isinstance(result, int) else 0


def _unexpected(error: Exception) -> int:
    """Usage errors of the command line get exit code 1; anything else is a fault of the program."""
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(str(error))
        return EXIT_DONE
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        return _told(f"error: {error.format_message()} See `inspect --help`.", UsageError.exit_code)
    if os.environ.get("INSPECT_DEBUG"):
        raise error
    if is_out_of_memory(error):
        text = (
            f"error: out of memory ({' '.join(str(error).split()) or type(error).__name__}); close other programs or "
            "give a smaller batch (score: --batch, train: training.batch in the recipe), then run again"
        )
    elif isinstance(error, OSError) and is_full(error):
        text = f"error: {output_error(Path(error.filename or 'output'), error)}"
    elif isinstance(error, OSError) and error.filename is not None:
        text = f"error: {error.filename}: {error.strerror}; check the path and its permissions"
    else:
        text = f"internal fault: {type(error).__name__}: {error}; run again with `inspect --debug ...` and report it"
    return _told(text, exit_code_of(error))


def _told(text: str, code: int) -> int:
    say(text)
    return code
