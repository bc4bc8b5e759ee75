"""Brightness of cells: a soft stain stands out, light and structure do not, and colour counts."""

import pytest
import torch

from inspect_cli.methods.tone import CELL_PX, Tone

SIDE = 160


def tiles(count: int, seed: int, channels: int = 1) -> torch.Tensor:
    """Return noise of fine grain, each tile with its own light."""
    generator = torch.Generator().manual_seed(seed)
    grain = torch.rand(count, channels, SIDE, SIDE, generator=generator)
    light = 0.8 + 0.2 * torch.rand(count, 1, 1, 1, generator=generator)
    return grain * light


def learnt(channels: int = 1, good: torch.Tensor | None = None) -> Tone:
    tone = Tone(channels, SIDE)
    tone.learn(tone.differences(tiles(40, 0, channels) if good is None else good))
    return tone


def test_good_tiles_score_one_on_average_at_most_in_any_light():
    tone = learnt()
    assert 0.6 < tone(tiles(40, 1)).mean() < 1.15
    assert tone(0.7 * tiles(40, 1)).mean() < 1.2
    slope = torch.linspace(0.8, 1.2, SIDE)
    assert tone(tiles(40, 1) * slope).mean() < 1.5


def test_brightness_is_as_exact_under_mixed_precision():
    even = 0.6 + 0.05 * torch.rand(6, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    tone = learnt(good=even)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = tone(even)
    torch.testing.assert_close(found, tone(even), rtol=1e-5, atol=1e-6)


def test_soft_stain_stands_out_where_it_is():
    tone, stained = learnt(), tiles(4, 2)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    stained = stained * (1 - 0.25 * torch.exp(-((y - 56) ** 2 + (x - 104) ** 2) / (2 * 20.0**2)))
    score = tone(stained)[:, 0]
    for found in score:
        top = divmod(int(found.argmax()), found.shape[1])
        assert abs(top[0] * CELL_PX + 8 - 56) <= 16
        assert abs(top[1] * CELL_PX + 8 - 104) <= 16
    assert score.amax(dim=(1, 2)).min() > 3 * tone(tiles(4, 2)).max()


def test_another_colour_of_the_same_brightness_stands_out():
    generator = torch.Generator().manual_seed(0)
    grey = torch.rand(30, 1, SIDE, SIDE, generator=generator).expand(-1, 3, -1, -1)
    tone, tinted = learnt(3, grey), grey[:2].clone()
    tinted[:, 0, 64:96, 64:96] *= 1.1
    tinted[:, 2, 64:96, 64:96] *= 0.9
    assert tone(tinted).max() > 10 * tone(grey[:2]).max()


def test_material_that_is_all_alike_bears_half_a_grey_value():
    tone = learnt(1, torch.full((8, 1, SIDE, SIDE), 0.5))
    speck = torch.full((1, 1, SIDE, SIDE), 0.5)
    speck[..., 64:96, 64:96] += 0.5 / 255
    assert torch.isfinite(tone(speck)).all()
    assert tone(speck).max() < 100


@pytest.mark.parametrize(("height", "width"), [(160, 160), (150, 170), (16, 200), (7, 5)])
def test_any_size_is_cut_into_whole_cells(height, width):
    tone, image = learnt(), tiles(1, 3)[..., :height, :width]
    if width > SIDE:
        image = torch.nn.functional.pad(image, (0, width - image.shape[3], 0, 0), mode="replicate")
    found = tone(image)
    assert found.shape == (1, 1, -(-height // CELL_PX), -(-width // CELL_PX))
    assert torch.isfinite(found).all()


def test_where_good_tiles_are_high_counts_less():
    tone = learnt()
    before = tone(tiles(2, 5))
    tone.place[..., 3, 4] = 2.0
    after = tone(tiles(2, 5))
    torch.testing.assert_close(after[..., 3, 4], before[..., 3, 4] / 2)
    torch.testing.assert_close(after[..., 0, :], before[..., 0, :])
