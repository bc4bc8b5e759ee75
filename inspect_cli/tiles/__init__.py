"""Integer geometry of tiles: grid, random sampler, streaming stitch. Knows nothing of networks."""

from inspect_cli.tiles.grid import Grid, tile_starts
from inspect_cli.tiles.sampler import PatchSampler, SamplerImage
from inspect_cli.tiles.stitch import RowStitcher, blend_window

__all__ = ["Grid", "PatchSampler", "RowStitcher", "SamplerImage", "blend_window", "tile_starts"]
