"""``docs/recipe.md``, written from the schema."""

from __future__ import annotations

import json
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from inspect_cli.recipe.schema import MapSpec, Recipe, Section

INTRODUCTION = """# The recipe

A recipe tells everything the program needs to know about a material. It lies in the model store as
`models/<material>/recipe.yaml`. Unknown keys and keys written twice are refused. `inspect recipe new NAME`
writes one with every key and its comment, `inspect recipe check FILE` validates one, and
`inspect recipe schema` prints the JSON schema for an editor.

This page is generated from the schema (`make docs`).
"""


def recipe_markdown() -> str:
    """Return the page as Markdown: one table for each section of the recipe."""
    parts = [INTRODUCTION, _table("Top level", Recipe)]
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            parts.append(_table(f"`{name}`", section))
        elif name == "maps":
            parts.append(_table("`maps.<name>`", MapSpec))
    return "\n".join(parts)


def recipe_schema_json() -> str:
    """Return the JSON schema of a recipe."""
    return json.dumps(Recipe.model_json_schema(), indent=2)


def _table(title: str, section: type[BaseModel]) -> str:
    about = (section.__doc__ or "").split("\n")[0]
    return f"## {title}\n\n{about}\n\n{fields_table(section)}"


def fields_table(section: type[BaseModel]) -> str:
    """Return the fields of a section as a Markdown table: key, value, default, meaning."""
    rows = [
        f"| `{name}` | {_type_name(field)} | {_default(field)} | {_escape(field.description or '')} |"
        for name, field in section.model_fields.items()
    ]
    head = "| key | value | default | meaning |\n| --- | --- | --- | --- |\n"
    return head + "\n".join(rows) + "\n"


def _type_name(field: FieldInfo) -> str:
    limits = _limits(field)
    return _annotation_name(field.annotation) + (f", {limits}" if limits else "")


def _limits(field: FieldInfo) -> str:
    """Return the limits of a number in words."""
    words = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    found = {key: getattr(part, key) for part in field.metadata for key in words if hasattr(part, key)}
    return ", ".join(text.format(f"{found[key]:g}") for key, text in words.items() if found.get(key) is not None)


def _annotation_name(annotation: Any) -> str:
    arguments = get_args(annotation)
    if annotation is type(None):
        return "empty"
    if arguments and all(isinstance(a, str) for a in arguments):
        return " \\| ".join(f"`{a}`" for a in arguments)
    name = getattr(annotation, "__name__", "")
    if name == "tuple":
        return f"list: {_annotation_name(arguments[0])}" if arguments[-1] is ... else f"{len(arguments)} numbers"
    if name == "dict":
        return "mapping"
    if name == "Annotated":
        return _annotation_name(arguments[0])
    if arguments:
        return " or ".join(_annotation_name(a) for a in arguments)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "yes or no"}.get(name, name)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default in (PydanticUndefined, None, ""):
        return ""
    return f"`{field.default}`"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
