"""``inspect recipe``: write, check and describe recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from inspect_cli import console
from inspect_cli.commands.options import Models, check_name, parse_names
from inspect_cli.errors import UsageError, nearest

#: Shorter side of an image that is larger than the tiles of any method.
_LARGE_PX: Final = 10_000

app = typer.Typer(help="Write, check and describe recipes.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the material.", show_default=False)],
    maps: Annotated[
        str, typer.Option("--maps", help="Maps of a part: albedo, normal, gradient, curvature or own names.")
    ] = "albedo,normal",
    models: Models = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing recipe.")] = False,
) -> None:
    """Write a recipe whose comments explain every key.

    \b
    Examples:
      inspect recipe new foil
      inspect recipe new plate --maps gradient,curvature
    """  # noqa: D301
    from pydantic import ValidationError

    from inspect_cli.material.materials import writable_store
    from inspect_cli.recipe import MapSpec, parse_recipe
    from inspect_cli.recipe.template import KNOWN_MAPS, commented_yaml, new_recipe
    from inspect_cli.store.atomic import write_text
    from inspect_cli.store.layout import RECIPE

    check_name(name)
    names = parse_names(maps) or []
    if not names:
        raise UsageError("--maps: name at least one map")
    specs = {m: KNOWN_MAPS.get(m) or MapSpec(files=f"{{part}}_{m}.tif", range="train") for m in names}
    path = writable_store(models) / name / RECIPE
    try:
        text = commented_yaml(new_recipe(name, specs))
    except ValidationError as error:
        raise UsageError(f"--maps {maps}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    parse_recipe(text, str(path))
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already; --force overwrites it")
    write_text(path, text)
    console.out(str(path))


@app.command()
def check(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or name of a material.", show_default=False)],
    models: Models = None,
) -> None:
    """Validate a recipe, its method's settings included.

    \b
    Examples:
      inspect recipe check models/riblet/recipe.yaml
      inspect recipe check riblet
    """  # noqa: D301
    from inspect_cli.material.materials import find_material, known_materials
    from inspect_cli.methods import build_detector
    from inspect_cli.methods.registry import AUTO, check_whole_images, method_class
    from inspect_cli.recipe import load_recipe
    from inspect_cli.store.layout import RECIPE
    from inspect_cli.tiles.tiling import tiling_of
    from inspect_cli.training.auto import check_auto_settings

    path = Path(recipe) / RECIPE if (Path(recipe) / RECIPE).is_file() else Path(recipe)
    if not path.is_file():
        if path.suffix:
            raise UsageError(f"{recipe}: no such file; materials: {nearest(recipe, list(known_materials(models)))}")
        path = find_material(recipe, models).folder / RECIPE
    loaded = load_recipe(path)
    if loaded.method.name == AUTO:
        check_auto_settings(loaded.method.settings)
    else:
        tile_px = tiling_of(loaded, method_class(loaded.method.name).suited_tile_px(_LARGE_PX)).size_px
        for spec in loaded.maps.values():
            build_detector(loaded.method.name, spec.channels, tile_px, loaded.method.settings)
        if loaded.tiles.whole:
            check_whole_images(loaded.method.name)
    console.out(
        f"{path}: valid; material {loaded.material}, maps {', '.join(loaded.maps)}, method {loaded.method.name}"
    )


@app.command()
def schema() -> None:
    """Print the JSON schema of a recipe, for editors.

    \b
    Example:
      inspect recipe schema > recipe.schema.json
    """  # noqa: D301
    from inspect_cli.recipe.docs import recipe_schema_json

    console.out(recipe_schema_json())
