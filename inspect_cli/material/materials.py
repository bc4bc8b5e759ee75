"""Where materials live: ``--models``, ``INSPECT_MODELS``, ``./models``, then the store that is shipped."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from inspect_cli.errors import NoInputError, RecipeError, UsageError, nearest
from inspect_cli.recipe import Recipe, load_recipe
from inspect_cli.recipe.schema import PART
from inspect_cli.store.atomic import write_bytes
from inspect_cli.store.layout import MANIFEST, RECIPE

#: File in a batch folder that may name its material: ``material: riblet``.
FOLDER_FILE = "inspect.yaml"
#: Environment variable that names the store where no option does.
STORE_VARIABLE = "INSPECT_MODELS"
#: Warning of a model that comes with the program.
SHIPPED = "this model comes with the program, to try things out: it was trained on five generated parts"


@dataclass(frozen=True)
class Material:
    """A material: its recipe and the folder that recipe and bundles lie in."""

    recipe: Recipe
    folder: Path

    @property
    def name(self) -> str:
        """Name of the material."""
        return self.recipe.material


def shipped(name: str) -> Path:
    """Return a folder that comes with the program (``models``, ``sample_data``)."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "shipped" / name
    return installed if installed.is_dir() else package.parent / name


def model_stores(option: Path | None) -> list[Path]:
    """Return the stores in the order in which they are searched."""
    named = os.environ.get(STORE_VARIABLE)
    stores = [option, Path(named) if named else None, Path("models"), shipped("models")]
    return [store for store in stores if store is not None]


def writable_store(option: Path | None) -> Path:
    """Return the store that training writes to: the first one named, or ``./models``."""
    return model_stores(option)[0]


def known_materials(option: Path | None) -> dict[str, Path]:
    """Return the folder of every material; an earlier store hides a later one."""
    found: dict[str, Path] = {}
    for store in model_stores(option):
        for recipe in sorted(store.glob(f"*/{RECIPE}")):
            found.setdefault(recipe.parent.name, recipe.parent)
    return found


def find_material(name: str, option: Path | None = None, may_be_new: bool = False) -> Material:
    """Return the material called ``name``; ``may_be_new`` lets the store that is named be one yet to be made.

    Raises
    ------
    UsageError
        If no store has it, when the message names the nearest one, or the store that is named is not there or has
        not got it.
    RecipeError
        If its recipe is broken or is another material's.
    """
    if not may_be_new:
        _check_named_store(option)
    known = known_materials(option)
    if name not in known:
        if option is not None and (option / RECIPE).is_file():
            raise UsageError(f"--models {option}: is the folder of a material; give the folder that it is in")
        where = ", ".join(str(store) for store in model_stores(option)[:-1])
        raise UsageError(
            f"material {name!r} is unknown (looked in {where}, and in what comes with the program): "
            f"{nearest(name, list(known))}; name another store with --models, and for a new material give "
            "`inspect train` its good parts with --data"
        )
    named = None if may_be_new else named_store(option)
    if named is not None and known[name].parent != named.folder:
        raise UsageError(f"{named}: has no material {name!r}; check the path and that it is mounted")
    recipe = load_recipe(known[name] / RECIPE)
    if recipe.material != name:
        raise RecipeError(f"{known[name] / RECIPE}: material is {recipe.material!r}, its folder is {name!r}")
    return Material(recipe, known[name])


@dataclass(frozen=True)
class _NamedStore:
    """A store that was named, and how: another one must not stand in for it in silence."""

    folder: Path
    text: str

    def __str__(self) -> str:
        return self.text


def named_store(option: Path | None) -> _NamedStore | None:
    """Return the store that the option or the environment names, None if neither does."""
    named = os.environ.get(STORE_VARIABLE)
    if option is not None:
        return _NamedStore(option, f"--models {option}")
    return _NamedStore(Path(named), f"{STORE_VARIABLE}={named}") if named else None


def _check_named_store(option: Path | None) -> None:
    """Raise UsageError if a store is named that is not there."""
    named = named_store(option)
    if named is not None and not named.folder.is_dir():
        raise UsageError(f"{named}: no such folder; check the path and that it is mounted")


def choose_material(name: str | None, folder: Path, option: Path | None = None) -> Material:
    """Return the material by name, or the one named by the folder's own file, or the only trained one.

    Raises
    ------
    UsageError
        If several could be meant.
    """
    _check_named_store(option)
    if name is None:
        name = _named_by_folder(folder)
    if name is None:
        trained, named = _trained_nearest(option), named_store(option)
        if not trained and named is not None and not any(named.folder.glob(f"*/*/{MANIFEST}")):
            raise UsageError(f"{named}: has no trained material; check the path and that it is mounted")
        if len(trained) != 1:
            raise UsageError(
                f"which material? Say --material NAME, or write 'material: NAME' into {folder / FOLDER_FILE}; "
                f"trained: {', '.join(sorted(trained)) or 'none'}"
            )
        name = trained[0]
    return find_material(name, option)


def _trained_nearest(option: Path | None) -> list[str]:
    """Return the trained materials of the first store that has any, but for models that come with the program."""
    for store in model_stores(option):
        found = sorted(store.glob(f"*/*/{MANIFEST}"))
        if trained := sorted({path.parent.parent.name for path in found if not _is_shipped(path)}):
            return trained
    return []


def _is_shipped(manifest: Path) -> bool:
    """Whether a model says of itself that it comes with the program."""
    try:
        warnings = json.loads(manifest.read_bytes()).get("warnings")
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(warnings, list) and SHIPPED in warnings


def _named_by_folder(folder: Path) -> str | None:
    path = folder / FOLDER_FILE
    if not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or set(content) != {"material"} or not isinstance(content["material"], str):
        raise RecipeError(f"{path}: must hold one line, 'material: NAME'")
    return content["material"]


def adopt(material: Material, option: Path | None) -> Material:
    """Return the material in the store that can be written to; its recipe and ROI are copied if need be."""
    folder = writable_store(option) / material.name
    if folder.resolve() == material.folder.resolve():
        return material
    mask = material.recipe.roi.file
    if mask is not None and PART not in mask and (material.folder / mask).is_file():
        write_bytes(folder / mask, (material.folder / mask).read_bytes())
    write_bytes(folder / RECIPE, (material.folder / RECIPE).read_bytes())
    return Material(material.recipe, folder)


def training_folder(material: Material) -> Path:
    """Return the folder of good parts that the recipe names.

    Raises
    ------
    NoInputError
        If the recipe names none, or it is not there.
    """
    named = material.recipe.training.data
    if named is None:
        raise NoInputError(f"recipe of {material.name} names no training data: say --data FOLDER")
    for base in (material.folder.parent.parent, shipped("models").parent):
        if (base / named).is_dir():
            return base / named
    raise NoInputError(f"training data {named!r} of material {material.name} is not there: say --data FOLDER")
