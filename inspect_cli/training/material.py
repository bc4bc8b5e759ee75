"""The material to learn, by name; one that has no recipe yet gets it from its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inspect_cli.errors import UsageError, nearest
from inspect_cli.images.infer import check_told_apart, infer_maps, training_root, unmatched
from inspect_cli.images.parts import any_file
from inspect_cli.material.materials import (
    Material,
    adopt,
    find_material,
    known_materials,
    shipped,
    writable_store,
)
from inspect_cli.recipe import MapSpec, load_recipe
from inspect_cli.recipe.template import commented_yaml, new_recipe
from inspect_cli.store.atomic import write_text
from inspect_cli.store.layout import RECIPE
from inspect_cli.store.paths import check_is_folder

if TYPE_CHECKING:  # it brings torch
    from inspect_cli.training.order import Teller


def material_to_train(
    name: str, data: Path | None, models: Path | None, maps_named: bool, teller: Teller
) -> Material:
    """Return the material in a store that can be written to; one without a recipe gets one from its data.

    So does one that only shares its name with a material that comes with the program: there is no file of any map
    of that, and no map was named.

    Raises
    ------
    NoInputError
        If there is no folder of that name, or a new material's holds no images.
    UsageError
        If the material is unknown and there is no data to make a recipe from, or the data is a file.
    """
    if data is not None:
        check_is_folder(data)
    known, own = known_materials(models).get(name), writable_store(models) / name
    from_us = known is not None and known.resolve() == (shipped("models") / name).resolve() != own.resolve()
    if known is not None and data is not None and from_us and not maps_named:
        expected = load_recipe(known / RECIPE).maps
        if not any_file(training_root(data), expected):
            teller.say(f"the recipe {known / RECIPE} does not fit {data}: taken as a new material")
            known = None
    if data is not None and known is None:
        maps = infer_maps(training_root(data))
        check_told_apart(training_root(data), maps)
        recipe = new_recipe(name, maps)
        path = own / RECIPE
        write_text(path, commented_yaml(recipe))
        found = ", ".join(f"{key} ({spec.files}, {spec.channels} channels)" for key, spec in recipe.maps.items())
        teller.say(f"new material {name!r}: recipe written to {path}; maps: {found}")
        if left := unmatched(training_root(data), recipe.maps):
            teller.warn(f"{len(left)} image file(s) are of none of these maps: {', '.join(left[:3])}")
    return adopt(find_material(name, models, may_be_new=True), models)


def maps_to_train(material: Material, names: Sequence[str] | None) -> dict[str, MapSpec]:
    """Return the maps named, all of the recipe without names; raises UsageError for one that it does not have."""
    known = material.recipe.maps
    for name in names or ():
        if name not in known:
            raise UsageError(f"--maps {name!r} is no map of {material.name}: {nearest(name, list(known))}")
    return {name: known[name] for name in names or known}
