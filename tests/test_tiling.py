"""How an image is cut where the recipe leaves it open: what suits the method and the images."""

import pytest

from inspect_cli.errors import RecipeError
from inspect_cli.methods.registry import method_class
from inspect_cli.recipe.schema import Recipe
from inspect_cli.tiles.tiling import Tiling, count_of_area, tiling_of


def recipe(tiles, scoring=None) -> Recipe:
    maps = {"image": {"files": "{part}.png"}}
    return Recipe.model_validate({"material": "foil", "maps": maps, "tiles": tiles, "scoring": scoring or {}})


@pytest.mark.parametrize(
    ("spec", "suited", "size", "stride"),
    [
        ({}, 128, 128, 64),
        ({}, 320, 320, 300),
        ({}, 160, 160, 144),
        ({"size_px": 320}, 512, 320, 240),
        ({"size_px": 64}, 512, 64, 32),
        ({"stride_px": 100}, 256, 256, 100),
        ({"size_px": 128, "stride_px": 128}, 512, 128, 128),
    ],
)
def test_the_recipe_counts_where_it_says_something(spec, suited, size, stride):
    even = not spec and size > 128
    found = tiling_of(recipe({**spec, "blend": "hann"}, {"smooth_sigma_px": 3}), suited)
    assert found == Tiling(size, stride, "hann", even=even, smooth_sigma_px=3)


@pytest.mark.parametrize(
    ("spec", "suited", "sigma"), [({}, 128, 2), ({}, 96, 2), ({}, 256, 4), ({}, 512, 8), ({"size_px": 320}, 512, 2)]
)
def test_scores_of_larger_tiles_that_the_method_chose_are_smoothed_more(spec, suited, sigma):
    assert tiling_of(recipe(spec), suited).smooth_sigma_px == sigma
    assert tiling_of(recipe(spec, {"smooth_sigma_px": 0}), suited).smooth_sigma_px == 0


def test_a_stride_above_the_tile_leaves_gaps():
    with pytest.raises(RecipeError, match=r"stride_px 200 must be at most the tile's 128 px"):
        tiling_of(recipe({"stride_px": 200}))


@pytest.mark.parametrize(("shortest", "side"), [(40, 128), (128, 128), (129, 129), (500, 500), (3672, 512)])
def test_features_are_looked_at_in_tiles_as_large_as_the_image_allows(shortest, side):
    assert method_class("feature-ae").suited_tile_px(shortest) == side
    assert method_class("patchcore").suited_tile_px(shortest) == side
    assert method_class("cae").suited_tile_px(shortest) == 128


def test_larger_tiles_come_in_smaller_numbers():
    assert [count_of_area(16, side) for side in (32, 128, 256, 512)] == [16, 16, 4, 1]
    assert count_of_area(16, 512, least=2) == 2
    assert count_of_area(8, 512, least=64) == 8
