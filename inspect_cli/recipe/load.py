"""YAML text -> :class:`Recipe`, with errors that name file, key, value and what is valid."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from inspect_cli.errors import RecipeError, nearest
from inspect_cli.recipe.schema import Recipe


class _UniqueKeySafeLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice instead of keeping the last one, and aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(problem="an alias has no place in a recipe", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key!r} is no text; put it in quotes", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key!r} is written twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_recipe(path: Path) -> Recipe:
    """Read and validate the recipe at ``path``.

    Raises
    ------
    RecipeError
        If the file cannot be read, is no YAML, or breaks the schema; the message names the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error}); write one with `inspect recipe new`") from error
    return parse_recipe(text, str(path))


def parse_recipe(text: str, source: str) -> Recipe:
    """Validate recipe text; ``source`` is what errors call it."""
    try:
        # A SafeLoader subclass: builds plain Python data only, never objects.
        data = yaml.load(text, Loader=_UniqueKeySafeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not valid YAML: {_yaml_reason(error)}") from error
    except RecursionError as error:
        raise RecipeError(f"{source}: not valid YAML: nested too deeply") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:  # PyYAML's constructors
        raise RecipeError(f"{source}: not valid YAML: a value cannot be read ({error})") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{source}: a recipe is a mapping of keys; see `inspect recipe new NAME`")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(f"{source}: " + "; ".join(_explain(e) for e in error.errors())) from error


def _yaml_reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _explain(error: ErrorDetails) -> str:
    loc = [str(step) for step in error["loc"] if not _is_union_branch(str(step))]
    key = ".".join(loc) or "recipe"
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}: {nearest(loc[-1], _valid_keys(loc[:-1]))}"
    if error["type"] == "missing":
        return f"{key}: missing; it must be given"
    reason = error["msg"].removeprefix("Value error, ")
    return f"{key}: {reason} (it is {_short(error['input'])})"


def _is_union_branch(step: str) -> bool:
    """Whether pydantic put the branch of a union, such as ``tuple[float,float]``, into the path."""
    return step.startswith(("tuple[", "literal[", "function-"))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _valid_keys(path: list[str]) -> list[str]:
    """Return the keys that are allowed in the section at ``path``."""
    model: type[BaseModel] = Recipe
    for step in path:
        if step not in model.model_fields:  # a map's name
            continue
        inner = _section_of(model.model_fields[step].annotation)
        if inner is not None:
            model = inner
    return list(model.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if isinstance(argument, type | UnionType) or get_args(argument):
            found = _section_of(argument)
            if found is not None:
                return found
    return None
