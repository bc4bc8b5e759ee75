"""PNG, JPEG, BMP, the common reader, masks, the contract of a file and the network's value range."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from inspect_cli.errors import IncompleteError, InputError
from inspect_cli.images import reader as reader_module
from inspect_cli.images.contract import check_header, check_registered
from inspect_cli.images.reader import ImageHeader, open_map, read_mask
from inspect_cli.images.values import Preprocess, ValueRange, continue_outside, mirror_sources
from inspect_cli.recipe.schema import Dtype, MapSpec

QUICK = settings(derandomize=True, deadline=None, max_examples=60)
GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: NDArray[Any], colour: int, extra: bytes = b"") -> bytes:
    """Return pixels (height, width, channels) as PNG, written from the specification alone."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2" if pixels.dtype == np.uint16 else np.uint8).reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def noise(dtype: str, *shape: int) -> NDArray[Any]:
    kind = np.dtype(dtype)
    return np.random.default_rng(len(shape)).integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught, open_map(path) as reader:
        reader.read()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- PNG


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(("colour", "channels"), [(GRAY, 1), (RGB, 3), (RGBA, 4)])
def test_png_reads_bit_for_bit(tmp_path: Path, dtype: str, colour: int, channels: int) -> None:
    pixels = noise(dtype, 13, 7, channels)
    (tmp_path / "map.png").write_bytes(png(pixels, colour))
    expected = pixels[..., 0] if channels == 1 else pixels[..., :3]  # alpha is no measurement
    with open_map(tmp_path / "map.png") as reader:
        header = reader.header
        assert (header.format, header.width, header.height) == ("PNG", 7, 13)
        assert header.channels == min(channels, 3)
        assert header.dtype == np.dtype(dtype)
        assert header.shape == expected.shape
        np.testing.assert_array_equal(reader.read_rows(3, 9), expected[3:9])
        np.testing.assert_array_equal(reader.read(), expected)
        reader.read()[...] = 0
        np.testing.assert_array_equal(reader.read_rows(0, 2), expected[:2])
        with pytest.raises(ValueError, match="outside"):
            reader.read_rows(9, 14)


def test_png_gray_with_alpha_is_gray(tmp_path: Path) -> None:
    pixels = noise("uint16", 5, 4, 2)
    (tmp_path / "map.png").write_bytes(png(pixels, GRAY_ALPHA))
    with open_map(tmp_path / "map.png") as reader:
        assert reader.header.channels == 1
        np.testing.assert_array_equal(reader.read(), pixels[..., 0])


@pytest.mark.parametrize("transparent", [False, True])
def test_png_palette_becomes_its_colours(tmp_path: Path, transparent: bool) -> None:
    index = np.arange(20, dtype=np.uint8).reshape(5, 4, 1)
    colours = noise("uint8", 20, 3)
    extra = chunk(b"PLTE", colours.tobytes()) + (chunk(b"tRNS", bytes(range(20))) if transparent else b"")
    (tmp_path / "map.png").write_bytes(png(index, PALETTE, extra))
    with open_map(tmp_path / "map.png") as reader:
        found = reader.read()
        assert found.shape == reader.header.shape
    np.testing.assert_array_equal(found, colours[index[..., 0]])


def test_png_cut_at_any_byte_is_refused_by_name(tmp_path: Path) -> None:
    whole, path = png(noise("uint16", 6, 5, 3), RGB), tmp_path / "map.png"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)


def test_png_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    whole, path = png(noise("uint8", 6, 5, 1), GRAY), tmp_path / "map.png"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        refusal(path)


@pytest.mark.parametrize("data", [b"", b"no zlib stream", zlib.compress(bytes(11)), zlib.compress(bytes(66))[:9]])
def test_png_whose_data_ends_early_is_refused(tmp_path: Path, data: bytes) -> None:
    head = struct.pack(">IIBBBBB", 5, 6, 16, GRAY, 0, 0, 0)
    body = chunk(b"IHDR", head) + (chunk(b"IDAT", data) if data else b"") + chunk(b"IEND", b"")
    (tmp_path / "map.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    refusal(tmp_path / "map.png")


def test_png_with_bytes_behind_its_end_reads(tmp_path: Path) -> None:
    pixels = noise("uint8", 6, 5, 1)
    (tmp_path / "map.png").write_bytes(png(pixels, GRAY) + bytes(16))
    with open_map(tmp_path / "map.png") as reader:
        np.testing.assert_array_equal(reader.read(), pixels[..., 0])


# ---------------------------------------------------------------- JPEG


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_reads_in_rgb_order(tmp_path: Path, channels: int, progressive: int) -> None:
    rows, columns = np.mgrid[:40, :56]
    smooth = np.stack([rows * 3, columns * 2, 200 - rows], axis=2)[..., :channels].astype(np.uint8)
    path = tmp_path / "map.jpg"
    cv2.imwrite(
        str(path), smooth[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    )
    with open_map(path) as reader:
        assert (reader.header.format, reader.header.dtype) == ("JPEG", np.uint8)
        found = reader.read()
        assert found.shape == reader.header.shape == (smooth.shape if channels == 3 else smooth.shape[:2])
    assert np.abs(found.reshape(smooth.shape).astype(int) - smooth).max() <= 8


def test_jpeg_cut_at_any_byte_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "map.jpg"
    cv2.imwrite(str(path), noise("uint8", 16, 16))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)
    for trailer in (bytes(7), b"what a telephone appends"):
        path.write_bytes(whole + trailer)
        with open_map(path) as reader:
            assert reader.read().shape == (16, 16)


def test_end_of_a_thumbnail_is_not_that_of_the_image(tmp_path: Path) -> None:
    path = tmp_path / "map.jpg"
    cv2.imwrite(str(path), noise("uint8", 16, 16))
    whole = path.read_bytes()
    thumbnail = b"\xff\xe1" + (2 + len(whole)).to_bytes(2, "big") + whole
    path.write_bytes(whole[:2] + thumbnail + whole[2:])
    with open_map(path) as reader:
        assert reader.read().shape == (16, 16)
    path.write_bytes(whole[:2] + thumbnail + whole[2:-9])
    assert "truncated JPEG" in refusal(path)


# ---------------------------------------------------------------- any file


@pytest.mark.parametrize("name", ["map.tif", "map.png", "map.jpg"])
def test_format_follows_the_content_not_the_name(tmp_path: Path, name: str) -> None:
    pixels = noise("uint16", 6, 5, 1)
    (tmp_path / name).write_bytes(png(pixels, GRAY))
    with open_map(tmp_path / name) as reader:
        np.testing.assert_array_equal(reader.read(), pixels[..., 0])


def test_what_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("part;score\n")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "broken.tif").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.tif")
    assert "no TIFF, PNG, JPEG or BMP" in refusal(tmp_path / "text.tif")
    assert "empty" in refusal(tmp_path / "empty.tif")
    assert "not a regular file" in refusal(tmp_path / "folder.tif")
    assert "not a regular file" in refusal(tmp_path / "pipe.tif")
    assert "no such file" in refusal(tmp_path / "broken.tif")
    assert "no such file" in refusal(tmp_path / "absent.tif")


def test_too_many_megapixels_are_refused_and_the_file_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "map.tif", np.zeros((1001, 1000), np.uint8))
    monkeypatch.setattr(reader_module, "MAX_MEGAPIXELS", 1)
    assert "1000x1001" in refusal(tmp_path / "map.tif")  # an open file would be a ResourceWarning, an error here


# ---------------------------------------------------------------- orientation

SHAPE = np.array([[10, 60, 200], [120, 240, 30]], np.uint8).repeat(8, 0).repeat(8, 1)  # two rows of three squares


def exif(orientation: int, order: str = "<") -> bytes:
    """An EXIF block with two tags, the second of which is the orientation."""
    tags = struct.pack(f"{order}HHHII", 2, 0x010F, 2, 1, 0) + struct.pack(
        f"{order}HHIHH", 0x0112, 3, 1, orientation, 0
    )
    return {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8) + tags


#: What has to be done to the stored pixels (EXIF 2.3): where the 0th row and the 0th column lie when looked at.
UPRIGHT = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    expected = UPRIGHT[orientation](SHAPE)
    block = exif(orientation, "<>"[orientation % 2])
    (tmp_path / "map.png").write_bytes(png(SHAPE[..., None], GRAY, chunk(b"eXIf", block)))
    coded = cv2.imencode(".jpg", SHAPE, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    app1 = b"Exif\0\0" + block
    (tmp_path / "map.jpg").write_bytes(coded[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + coded[2:])
    for name, most in (("map.png", 0), ("map.jpg", 3)):
        with open_map(tmp_path / name) as reader:
            assert reader.header.shape == expected.shape
            assert np.abs(reader.read().astype(int) - expected).max() <= most
            assert np.abs(reader.read_rows(3, 9).astype(int) - expected[3:9]).max() <= most


@pytest.mark.parametrize("block", [b"", b"II", b"XX*\0", exif(6)[:14], exif(6)[:-5]])
def test_a_damaged_orientation_leaves_the_picture_as_it_is(tmp_path: Path, block: bytes) -> None:
    (tmp_path / "map.png").write_bytes(png(SHAPE[..., None], GRAY, chunk(b"eXIf", block)))
    with open_map(tmp_path / "map.png") as reader:
        np.testing.assert_array_equal(reader.read(), SHAPE)


# ---------------------------------------------------------------- BMP


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bmp_reads_bit_for_bit(tmp_path: Path, channels: int) -> None:
    pixels = noise("uint8", 13, 7, channels)
    assert cv2.imwrite(str(tmp_path / "map.bmp"), pixels)
    expected = pixels[..., 0] if channels == 1 else pixels[..., 2::-1]
    with open_map(tmp_path / "map.bmp") as reader:
        assert (reader.header.format, reader.header.shape) == ("BMP", expected.shape)
        np.testing.assert_array_equal(reader.read(), expected)


def test_bmp_from_the_top_and_with_a_palette_of_colours(tmp_path: Path) -> None:
    palette = noise("uint8", 4, 4)
    index = np.array([[0, 1, 2, 3, 1], [3, 2, 1, 0, 0]], np.uint8)
    header = struct.pack("<IiiHHIIiiII", 40, 5, -2, 1, 8, 0, 0, 0, 0, 4, 0)
    rows = b"".join(row.tobytes() + bytes(3) for row in index)
    (tmp_path / "map.bmp").write_bytes(
        b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 16) + header + palette.tobytes() + rows
    )
    with open_map(tmp_path / "map.bmp") as reader:
        np.testing.assert_array_equal(reader.read(), palette[index][..., 2::-1])


@pytest.mark.parametrize("used", [257, 255])
def test_a_damaged_palette_is_refused_by_name(tmp_path: Path, used: int) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 5, 2, 1, 8, 0, 0, 0, 0, used, 0)
    (tmp_path / "map.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40) + header + bytes(19))
    with pytest.raises(InputError, match=r"map\.bmp: damaged BMP palette"):
        open_map(tmp_path / "map.bmp")


def test_a_bmp_that_is_cut_off_or_compressed_is_refused_by_name(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "map.bmp"), noise("uint8", 13, 7, 3))
    whole = (tmp_path / "map.bmp").read_bytes()
    for size in (9, 30, 60, len(whole) - 1):
        (tmp_path / "map.bmp").write_bytes(whole[:size])
        with pytest.raises(IncompleteError, match=r"map\.bmp: truncated BMP"):
            open_map(tmp_path / "map.bmp")
    (tmp_path / "map.bmp").write_bytes(whole[:30] + b"\x01" + whole[31:])
    with pytest.raises(InputError, match="unsupported BMP"):
        open_map(tmp_path / "map.bmp")


# ---------------------------------------------------------------- masks


def test_mask_is_true_where_the_image_is_not_zero(tmp_path: Path) -> None:
    mask = np.zeros((6, 5, 1), np.uint8)
    mask[2, 3], mask[4, 1] = 1, 255
    (tmp_path / "mask.png").write_bytes(png(mask, GRAY))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", 6, 5), mask[..., 0] > 0)
    tifffile.imwrite(tmp_path / "mask.tif", mask[..., 0] > 0, photometric="minisblack")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif", 6, 5), mask[..., 0] > 0)
    colour = np.concatenate([mask * 0, mask, mask * 0, np.full_like(mask, 255)], axis=2)
    (tmp_path / "colour.png").write_bytes(png(colour, RGBA))
    np.testing.assert_array_equal(read_mask(tmp_path / "colour.png", 6, 5), mask[..., 0] > 0)


def test_alpha_of_a_gray_tiff_mask_says_nothing(tmp_path: Path) -> None:
    mask = np.zeros((6, 5, 2), np.uint8)
    mask[..., 1] = 255
    mask[2, 3, 0] = 9
    tifffile.imwrite(tmp_path / "mask.tif", mask, photometric="minisblack", planarconfig="contig", extrasamples=[2])
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif", 6, 5), mask[..., 0] > 0)


def test_mask_of_another_size_names_both_sizes(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(png(noise("uint8", 6, 5, 1), GRAY))
    with pytest.raises(InputError, match=r"mask\.png: mask is 5x6, its image is 6x5"):
        read_mask(tmp_path / "mask.png", 5, 6)


# ---------------------------------------------------------------- contract


def header(**changes: Any) -> ImageHeader:
    fields: dict[str, Any] = {"width": 40, "height": 30, "channels": 3, "dtype": np.dtype("int16"), "pages": 1}
    return ImageHeader(path=Path("batch/P1_normal.tif"), format="TIFF", **(fields | changes))


SPEC = MapSpec(files="{part}_normal.tif", channels=3, dtype="int16")


@pytest.mark.parametrize(
    ("changes", "found", "expected"),
    [
        ({"pages": 3}, "3 pages", "one page"),
        ({"channels": 1}, "1 channel", "3 expected"),
        ({"channels": 4}, "4 channel", "3 expected"),
        ({"dtype": np.dtype("uint16")}, "uint16", "int16"),
        ({"width": 41}, "41x30", "40x30"),
        ({"width": 30, "height": 40}, "30x40", "40x30"),
    ],
)
def test_broken_contract_names_the_file_and_both_values(changes: dict[str, Any], found: str, expected: str) -> None:
    check_header(header(), SPEC, (40, 30))
    with pytest.raises(InputError) as caught:
        check_header(header(**changes), SPEC, (40, 30))
    message = str(caught.value)
    assert "batch/P1_normal.tif" in message
    assert found in message
    assert expected in message


def test_type_of_the_training_counts_where_the_recipe_names_none() -> None:
    free = MapSpec(files="{part}_normal.tif", channels=3)
    check_header(header(), free)
    check_header(header(), SPEC, dtype=np.dtype("float32"))
    with pytest.raises(InputError, match="is int16; float32 is expected"):
        check_header(header(), free, dtype=np.dtype("float32"))
    for dtype in get_args(Dtype):
        check_header(header(dtype=np.dtype(dtype)), free)
    for unfit in ("bool", "complex64"):
        with pytest.raises(InputError, match=f"{unfit} is not supported"):
            check_header(header(dtype=np.dtype(unfit)), free)


def test_maps_of_a_part_must_have_one_size() -> None:
    check_registered({"albedo": header(channels=1), "normal": header()})
    with pytest.raises(InputError, match=r"P1_normal\.tif: is 40x29 px, but P1_normal\.tif is 40x30"):
        check_registered({"albedo": header(), "normal": header(height=29)})


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int8", "int16", "int32"])
def test_limits_of_an_integer_type_become_0_and_1(dtype: str) -> None:
    limits = np.iinfo(dtype)
    low = -limits.max if limits.min < 0 else 0
    unit = ValueRange.of_type(np.dtype(dtype)).to_unit(np.array([low, limits.max, limits.max // 2], dtype))
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [0, 1, 0.75 if limits.min < 0 else 0.5], atol=0.003)


@QUICK
@given(arrays(np.int16, (3, 4), elements=st.integers(-32767, 32767)))
def test_signed_normals_keep_their_sign(normals: NDArray[np.int16]) -> None:
    unit = ValueRange.of_type(normals.dtype).to_unit(normals)
    np.testing.assert_array_equal(np.sign(unit - np.float32(0.5)), np.sign(normals))
    mirrored = ValueRange.of_type(normals.dtype).to_unit(-normals)
    np.testing.assert_allclose(unit + mirrored, 1, atol=1e-6)


def test_floats_are_neither_scaled_nor_clipped() -> None:
    pixels = np.array([-2.5, 0, 0.25, 1, 7], np.float64)
    np.testing.assert_array_equal(ValueRange.of_type(pixels.dtype).to_unit(pixels), pixels.astype(np.float32))
    np.testing.assert_allclose(ValueRange(-1, 1).to_unit(pixels), (pixels + 1) / 2)


@QUICK
@given(st.integers(1, 3), st.booleans(), st.integers(0, 5))
def test_network_input_is_the_scaled_pixels_and_material_from_inside_outside(
    channels: int, masked: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (2, 4, 5, channels), dtype=np.uint8)
    masks = rng.random((2, 4, 5)) < 0.5 if masked else None
    preprocess = Preprocess(ValueRange(10, 210), (0.5,) * channels, "uint8")
    found = preprocess.to_network(patches[..., 0] if channels == 1 else patches, masks)
    assert found.shape == (2, channels, 4, 5)
    assert found.flags.c_contiguous
    unit = (patches.astype(np.float64) - 10) / 200
    for n, y, x in np.ndindex(2, 4, 5):
        if masks is None or masks[n, y, x]:
            np.testing.assert_allclose(found[n, :, y, x], unit[n, y, x], atol=1e-6)
        else:
            inside = unit[n][masks[n]]
            assert np.isclose(inside, found[n, :, y, x], atol=1e-6).all(axis=1).any()


def test_material_is_mirrored_across_the_border_of_the_roi() -> None:
    row = np.arange(8, dtype=np.float32)
    mask = np.broadcast_to(np.isin(row, [3, 4, 5]), (6, 8))
    tile = np.broadcast_to(row, (1, 1, 6, 8)).copy()
    continue_outside(tile, mask[None], (0.0,))
    np.testing.assert_array_equal(tile[0, 0, 2], [3, 5, 4, 3, 4, 5, 4, 3])  # 0 would need 6, outside: the nearest
    whole, nothing = np.ones((6, 8), bool), np.zeros((6, 8), bool)
    tiles = np.stack([tile[0], tile[0]])
    continue_outside(tiles, np.stack([whole, nothing]), (7.0,))
    np.testing.assert_array_equal(tiles[0], tile[0])
    assert (tiles[1] == 7).all()


@QUICK
@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 9))
def test_pixel_that_stands_for_one_outside_lies_inside_and_near(seed: int, height: int, width: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.3
    mask.flat[seed % mask.size] = True
    sources = mirror_sources(mask)
    assert mask.ravel()[sources].all()
    inside = np.argwhere(mask)
    for place, source in zip(np.argwhere(~mask), sources, strict=True):
        least = np.hypot(*(inside - place).T).min()
        assert np.hypot(*(np.array(divmod(int(source), width)) - place)) <= 2.3 * least
