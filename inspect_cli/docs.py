"""Pages of ``docs/`` that are written from the code: ``python -m inspect_cli.docs docs``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from inspect_cli.cli import app
from inspect_cli.errors import EXIT_CODES
from inspect_cli.methods.docs import methods_markdown
from inspect_cli.recipe.docs import recipe_markdown, recipe_schema_json


def exit_codes_markdown() -> str:
    """Return the exit codes as a Markdown page."""
    rows = [f"| {code} | {meaning} | {remedy} |" for code, (meaning, remedy) in sorted(EXIT_CODES.items())]
    return (
        "# Exit codes\n\nExit codes are an interface: scripts may rely on them. This page is generated from the "
        "code (`make docs`).\n\n| code | meaning | what to do |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
    )


def commands_markdown() -> str:
    """Return the help of the program and of every command as a Markdown page."""
    root: Any = typer.main.get_command(app)
    pages = ["# Commands\n\nThe help texts of all commands. This page is generated from the code (`make docs`).\n"]
    for path, command in [(["inspect"], root), *_leaves(root, ["inspect"])]:
        settings = root.context_settings | {"terminal_width": 88}
        context = command.make_context(" ".join(path), ["--help"], resilient_parsing=True, **settings)
        context.info_name = " ".join(path)
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        pages.append(f"## `{' '.join(path)}`\n\n```text\n{text}\n```\n")
    return "\n".join(pages)


def _leaves(command: Any, path: list[str]) -> list[tuple[list[str], Any]]:
    """Return every command of the tree that does something, with its path."""
    inner = getattr(command, "commands", None)
    if inner is None:
        return [(path, command)]
    return [leaf for name, sub in inner.items() for leaf in _leaves(sub, [*path, name])]


PAGES = {
    "methods.md": methods_markdown,
    "recipe.md": recipe_markdown,
    "recipe.schema.json": lambda: recipe_schema_json() + "\n",
    "exit-codes.md": exit_codes_markdown,
    "commands.md": commands_markdown,
}


def write_pages(folder: Path) -> None:
    """Write every generated page into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
