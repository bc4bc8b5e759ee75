"""A commented recipe to start from, and a recipe for material that has none."""

from __future__ import annotations

import textwrap
from typing import Any

import yaml
from pydantic import BaseModel

from inspect_cli.recipe.schema import MapSpec, Recipe, TilesSpec

#: Ending of the file name -> what the map usually is.
KNOWN_MAPS: dict[str, MapSpec] = {
    "albedo": MapSpec(files="{part}_albedo.tif", channels=1, range="train"),
    "normal": MapSpec(files="{part}_normal.tif", channels=3, range="train"),
    "gradient": MapSpec(files="{part}_gradient.tif", channels=1, range="train"),
    "curvature": MapSpec(files="{part}_curvature.tif", channels=1, range="train"),
}


def new_recipe(name: str, maps: dict[str, MapSpec]) -> Recipe:
    """Return a recipe with default settings for ``name``, tiles joined by a window that trusts their middle."""
    return Recipe(material=name, maps=maps, tiles=TilesSpec(blend="hann"))


def commented_yaml(recipe: Recipe) -> str:
    """Return ``recipe`` as YAML text in which every key carries its meaning as a comment."""
    head = f"# Recipe for {recipe.material}. Every key is explained in docs/recipe.md.\n"
    return head + "\n".join(_section_lines(recipe, 0)) + "\n"


def _section_lines(section: BaseModel, depth: int) -> list[str]:
    lines: list[str] = []
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if depth == 0:
            lines.append("")
        lines += _comment(field.description or "", depth)
        lines += _value_lines(key, value, depth)
    return lines


def _value_lines(key: str, value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    if isinstance(value, BaseModel):
        return [f"{pad}{key}:", *_section_lines(value, depth + 1)]
    if isinstance(value, dict) and value and all(isinstance(v, BaseModel) for v in value.values()):
        lines = [f"{pad}{key}:"]
        for name, inner in value.items():
            lines += [f"{pad}  {_plain_yaml(name)}:", *_section_lines(inner, depth + 2)]
        return lines
    plain = list(value) if isinstance(value, tuple) else value
    return [f"{pad}{key}: {_plain_yaml(plain)}"]


def _plain_yaml(value: Any) -> str:
    """Return a value as YAML on one line."""
    readable = not isinstance(value, str) or value.isprintable()
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=readable, width=100_000)
    return str(text).removesuffix("\n").removesuffix("...").strip()


def _comment(text: str, depth: int) -> list[str]:
    pad = "  " * depth
    return [f"{pad}# {line}" for line in textwrap.wrap(text, 100 - len(pad))]
