"""How an image is cut into tiles: the recipe's word where it has one, else what suits the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from inspect_cli.errors import InputError, RecipeError
from inspect_cli.recipe.schema import Recipe, TilesSpec

#: Side of a tile where neither recipe nor method asks for another (IND section 3: patches of 128x128).
TILE_PX: Final = 128
#: Standard deviation of the Gaussian that smooths scores, and as a share of the side of a large tile that a method
#: chose (decision 18).
_SMOOTH_PX: Final = 2.0
_SMOOTH_SHARE: Final = 1 / 64
#: Side of what one feature of a pretrained network stands for.
_LEAST_OVERLAP_PX: Final = 16


@dataclass(frozen=True)
class Tiling:
    """Side and step of square tiles, and how their scores are put together and smoothed.

    With ``even`` the step is reduced as far as the number of tiles stays the same. See
    :class:`~inspect_cli.recipe.schema.TilesSpec`.
    """

    size_px: int
    stride_px: int
    blend: str = "average"
    whole: bool = False
    whole_max_mpx: float = 4.0
    even: bool = False
    smooth_sigma_px: float = _SMOOTH_PX

    @property
    def joining(self) -> str:
        """How the scores of an image come together: the blend of its tiles, or ``whole``."""
        return "whole" if self.whole else self.blend


def check_size(tiles: Tiling | TilesSpec, what: object, height: int, width: int) -> None:
    """Raise InputError if ``what`` is to be scored whole and is too large for it."""
    if tiles.whole and height * width > tiles.whole_max_mpx * 1e6:
        raise InputError(
            f"{what}: {width}x{height} px is above tiles.whole_max_mpx {tiles.whole_max_mpx:g}; raise it if memory "
            "allows, or score in tiles"
        )


def suited_stride_px(tile_px: int, of_method: bool = False) -> int:
    """Return the step between tiles: half a tile, and three quarters of one above 128 px, whose middle is large.

    Of a tile above 128 px whose side the method chose (``of_method``) it is fifteen sixteenths, with an overlap of
    16 px at least: such methods see no border where there is none.
    """
    if tile_px <= TILE_PX:
        return tile_px // 2
    return min(15 * tile_px // 16, tile_px - _LEAST_OVERLAP_PX) if of_method else 3 * tile_px // 4


def count_of_area(count: int, tile_px: int, least: int = 1) -> int:
    """Return how many tiles have the area of ``count`` tiles of 128 px: fewer of larger ones, no more of smaller."""
    if tile_px <= TILE_PX:
        return count
    return min(count, max(least, round(count * TILE_PX**2 / tile_px**2)))


def tiling_of(recipe: Recipe, suited_px: int = TILE_PX) -> Tiling:
    """Return the tiling that a recipe asks for; ``suited_px`` is the side where it leaves that open.

    Raises
    ------
    RecipeError
        If the recipe's stride is above the side.
    """
    spec, sigma_px = recipe.tiles, recipe.scoring.smooth_sigma_px
    size = spec.size_px or suited_px
    stride = spec.stride_px or suited_stride_px(size, of_method=spec.size_px is None)
    if stride > size:
        raise RecipeError(
            f"tiles.stride_px {stride} must be at most the tile's {size} px: pixels would stay unscored"
        )
    even = spec.size_px is None and spec.stride_px is None and size > TILE_PX
    if sigma_px is None:
        sigma_px = _SMOOTH_PX if spec.size_px else max(_SMOOTH_PX, size * _SMOOTH_SHARE)
    return Tiling(size, stride, spec.blend, spec.whole, spec.whole_max_mpx, even, sigma_px)
