"""The material to learn, by name; one that has no recipe yet gets it from its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from inspect_cli.console import Teller
from inspect_cli.errors import InputError, UsageError, nearest
from inspect_cli.images.infer import check_told_apart, infer_maps, named_defective, training_root, unmatched
from inspect_cli.images.parts import Part, any_file, discover_parts
from inspect_cli.material.materials import (
    Material,
    adopt,
    find_material,
    known_materials,
    shipped,
    training_folder,
    writable_store,
)
from inspect_cli.recipe import MapSpec, load_recipe
from inspect_cli.recipe.template import commented_yaml, new_recipe
from inspect_cli.store.atomic import write_text
from inspect_cli.store.layout import MANIFEST, RECIPE
from inspect_cli.store.paths import check_is_folder


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
    elif data is not None and known is not None and not from_us and not maps_named:
        _tell_of_another(known, training_root(data), teller)
    return adopt(find_material(name, models, may_be_new=True), models)


def _tell_of_another(folder: Path, data: Path, teller: Teller) -> None:
    """Warn of a recipe that no model was trained by yet and that may be left of a try with other images."""
    if any(folder.glob(f"*/{MANIFEST}")):
        return
    try:
        likely = {spec.files for spec in infer_maps(data).values()}
    except InputError:
        return  # what is wrong with the images is told where they are read
    taken = {spec.files for spec in load_recipe(folder / RECIPE).maps.values()}
    if taken.isdisjoint(likely):
        teller.warn(
            f"{folder / RECIPE}, which was there before, takes {', '.join(sorted(taken))}; a new one for {data} "
            f"would take {', '.join(sorted(likely))}: delete it if it is left of a try with other images"
        )


def parts_to_train(material: Material, data: Path | None, maps: Mapping[str, MapSpec], teller: Teller) -> list[Part]:
    """Return the good parts to learn from, and tell where they lie and what does not look like good ones there.

    Raises
    ------
    NoInputError
        If there is none.
    """
    folder = training_root(data if data is not None else training_folder(material))
    parts = discover_parts(folder, maps, material.recipe.maps)
    teller.say(f"recipe: {material.folder / RECIPE}; data: {folder} ({len(parts)} parts)")
    if left := unmatched(folder, material.recipe.maps):
        teller.warn(f"{len(left)} image file(s) are of no map of the recipe: {', '.join(left[:3])}")
    for name, count in named_defective(parts).items():
        teller.warn(
            f"{folder / name}: its {count} part(s) are learnt from as good ones, but it is named like a folder of "
            "defective ones; give --data the folder of good ones alone"
        )
    return parts


def maps_to_train(material: Material, names: Sequence[str] | None) -> dict[str, MapSpec]:
    """Return the maps named, all of the recipe without names; raises UsageError for one that it does not have."""
    known = material.recipe.maps
    for name in names or ():
        if name not in known:
            raise UsageError(f"--maps {name!r} is no map of {material.name}: {nearest(name, list(known))}")
    return {name: known[name] for name in names or known}
