"""What a material is: its maps, tiling, method, training and limits. Reads no pixels."""

from inspect_cli.recipe.budget import Budget
from inspect_cli.recipe.load import load_recipe, parse_recipe
from inspect_cli.recipe.schema import MapSpec, Recipe

__all__ = ["Budget", "MapSpec", "Recipe", "load_recipe", "parse_recipe"]
