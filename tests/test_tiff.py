"""TIFF: every layout reads equal to what was written, and a damaged file never reads as something else."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import struct
import tracemalloc
import zlib
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspect_cli.errors import IncompleteError, InputError
from inspect_cli.images.reader import open_map
from inspect_cli.images.tiff import TiffReader

QUICK = settings(derandomize=True, deadline=None, max_examples=60)
DTYPES = ("uint8", "uint16", "int16", "uint32", "float32", "float64", "int8", "float16")
LAYOUTS: dict[str, dict[str, Any]] = {
    "strips of 7": {"rowsperstrip": 7},
    "strips of 1": {"rowsperstrip": 1},
    "one strip": {},
    "tiles": {"tile": (16, 32)},
}
PACKING: tuple[dict[str, Any], ...] = (
    {},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True},
)
Tags = dict[int, tuple[int, list[int]]]


def pixels_of(dtype: str, shape: tuple[int, ...], seed: int = 0) -> NDArray[Any]:
    """Return random pixels over the whole range of the type."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (rng.normal(size=shape) * 50).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, size=shape, dtype=kind, endpoint=True)


def write(path: Path, pixels: NDArray[Any], planar: bool = False, **options: Any) -> None:
    """Write pixels (height, width[, channels]) as TIFF, the channels interleaved or in planes."""
    if pixels.ndim == 3:
        options["planarconfig"] = "separate" if planar else "contig"
        options["photometric"] = "rgb" if pixels.shape[2] > 2 else "minisblack"
        options.setdefault("extrasamples", ["unspecified"] if pixels.shape[2] in (2, 4) else None)
        pixels = np.moveaxis(pixels, 2, 0) if planar else pixels
    else:
        options["photometric"] = "minisblack"
    tifffile.imwrite(path, pixels, metadata=None, **options)


def hand_made(tags: Tags, segments: list[bytes]) -> bytes:
    """Return a little-endian TIFF of ``segments``, its directory behind the data as libtiff writes it."""
    tiled = 322 in tags
    starts = [8 + sum(map(len, segments[:i])) for i in range(len(segments))]
    data = b"".join(segments)
    where = {(324 if tiled else 273): (4, starts), (325 if tiled else 279): (4, [len(s) for s in segments])}
    every = tags | where
    directory, behind = b"", b""
    at_behind = 8 + len(data) + 2 + 12 * len(every) + 4
    for tag, (kind, values) in sorted(every.items()):
        raw = struct.pack(f"<{len(values)}{'HI'[kind - 3]}", *values)
        if len(raw) > 4:
            raw, behind = struct.pack("<I", at_behind + len(behind)), behind + raw
        directory += struct.pack("<HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    head = struct.pack("<4sI", b"II*\0", 8 + len(data))
    return head + data + struct.pack("<H", len(every)) + directory + b"\0" * 4 + behind


def tags_of(height: int, width: int, bits: int = 8, compression: int = 1, photometric: int = 1) -> Tags:
    """Return the tags of a one-channel image in one strip."""
    long, short = 4, 3
    return {
        256: (long, [width]),
        257: (long, [height]),
        258: (short, [bits]),
        259: (short, [compression]),
        262: (short, [photometric]),
        277: (short, [1]),
        278: (long, [height]),
    }


def lzw(data: bytes) -> bytes:
    """Return ``data`` as TIFF LZW of literal 9-bit codes: the table is cleared before codes grow."""
    codes = []
    for at in range(0, len(data), 200):
        codes += [256, *data[at : at + 200]]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def read(path: Path) -> NDArray[Any]:
    with open_map(path) as reader:
        pixels = reader.read()
        assert pixels.shape == reader.header.shape
        assert pixels.dtype == reader.header.dtype
    return pixels


def read_or_none(path: Path) -> NDArray[Any] | None:
    try:
        return read(path)
    except InputError:
        return None


def refusal(path: Path) -> str:
    """Return the message with which a file is refused; it must name the file."""
    with pytest.raises(InputError) as caught, open_map(path) as reader:
        reader.read()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout_reads_equal_to_what_was_written(tmp_path: Path, dtype: str, layout: str) -> None:
    path, number = tmp_path / "map.tif", count()
    for channels, planar, packing in product((1, 2, 3, 4), (False, True), PACKING):
        if (planar and channels == 1) or ("predictor" in packing and np.dtype(dtype).kind == "f"):
            continue
        n = next(number)
        shape = (21 + n % 5, 40 + n % 7) if channels == 1 else (21 + n % 5, 40 + n % 7, channels)
        written = pixels_of(dtype, shape, n)
        write(path, written, planar, byteorder="<>"[n % 2], bigtiff=n % 3 == 0, **LAYOUTS[layout], **packing)
        with open_map(path) as reader:
            header, found = reader.header, reader.read()
        assert (header.width, header.height, header.channels, header.pages) == (shape[1], shape[0], channels, 1)
        assert header.dtype == found.dtype == np.dtype(dtype)
        assert found.dtype.isnative
        np.testing.assert_array_equal(found, written)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha"])
def test_alpha_is_left_out_as_it_is_no_measurement(tmp_path: Path, layout: str, alpha: str) -> None:
    for channels, planar, packing in product((2, 4), (False, True), PACKING):
        written = pixels_of("uint16", (21, 40, channels))
        write(tmp_path / "map.tif", written, planar, extrasamples=[alpha], **LAYOUTS[layout], **packing)
        expected = written[..., 0] if channels == 2 else written[..., :3]
        with open_map(tmp_path / "map.tif") as reader:
            assert reader.header.shape == expected.shape
            np.testing.assert_array_equal(reader.read(), expected)
            np.testing.assert_array_equal(reader.read_rows(5, 18), expected[5:18])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 33), (16, 32), (17, 31), (33, 1)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_odd_sizes(tmp_path: Path, layout: str, height: int, width: int) -> None:
    written = pixels_of("uint16", (height, width, 3))
    write(tmp_path / "map.tif", written, compression="zlib", **LAYOUTS[layout])
    np.testing.assert_array_equal(read(tmp_path / "map.tif"), written)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, NDArray[Any]]]:
    folder, files = tmp_path_factory.mktemp("windows"), []
    for number, (layout, channels, planar) in enumerate(
        [
            ("strips of 7", 1, False),
            ("strips of 7", 3, True),
            ("tiles", 3, True),
            ("tiles", 1, False),
            ("one strip", 2, False),
        ]
    ):
        pixels = pixels_of("int16", (53, 41, channels)[: 3 if channels > 1 else 2], number)
        path = folder / f"{number}.tif"
        write(path, pixels, planar, compression="zlib", byteorder=">", **LAYOUTS[layout])
        files.append((path, pixels))
    return files


@QUICK
@given(st.integers(0, 4), st.lists(st.tuples(st.integers(0, 52), st.integers(1, 53)), min_size=1, max_size=6))
def test_windows_in_any_order_equal_slices(
    windowed: list[tuple[Path, NDArray[Any]]], which: int, windows: list[tuple[int, int]]
) -> None:
    path, pixels = windowed[which]
    with open_map(path) as reader:
        for start, length in windows:
            rows = reader.read_rows(start, min(start + length, 53))
            np.testing.assert_array_equal(rows, pixels[start : start + length])
            rows[...] = 0  # what the caller does with its rows must not reach the next window


@pytest.mark.parametrize(("y0", "y1"), [(-1, 3), (3, 3), (4, 2), (0, 54), (53, 54)])
def test_window_outside_the_image_is_a_programming_error(
    windowed: list[tuple[Path, NDArray[Any]]], y0: int, y1: int
) -> None:
    with open_map(windowed[0][0]) as reader, pytest.raises(ValueError, match="outside"):
        reader.read_rows(y0, y1)


def test_rows_read_top_to_bottom_decode_each_segment_once(
    windowed: list[tuple[Path, NDArray[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    original = TiffReader._decode

    def counted(self: TiffReader, index: int) -> NDArray[Any]:
        decoded.append(index)
        return original(self, index)

    monkeypatch.setattr(TiffReader, "_decode", counted)
    for path, _ in windowed:
        decoded.clear()
        with open_map(path) as reader:
            for y in range(0, 53, 5):
                reader.read_rows(y, min(y + 5, 53))
        assert len(decoded) == len(set(decoded)) > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("planar", [False, True])
def test_rows_of_one_plain_strip_are_read_without_the_others(tmp_path: Path, channels: int, planar: bool) -> None:
    pixels = pixels_of("uint16", (4000, 500) if channels == 1 else (4000, 500, channels))
    path = tmp_path / "plain.tif"
    write(path, pixels, planar=planar, byteorder=">")
    with open_map(path) as reader:
        tracemalloc.start()
        rows = reader.read_rows(3000, 3010)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    np.testing.assert_array_equal(rows, pixels[3000:3010])
    assert peak < 5 * rows.nbytes + 50_000


def test_plain_strip_that_shrinks_after_it_was_opened_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.tif"
    write(path, pixels_of("uint8", (400, 300)))
    with open_map(path) as reader:
        os.truncate(path, 60_000)
        with pytest.raises(IncompleteError, match="segment 1 is short"):
            reader.read_rows(300, 310)


def test_plain_strip_that_cannot_be_read_any_more_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "plain.tif"
    write(path, pixels_of("uint8", (40, 30)))
    with open_map(path) as reader:
        monkeypatch.setattr(tifffile.FileHandle, "read", gone)
        with pytest.raises(InputError, match=r"plain\.tif: cannot be read \(Input/output error\)"):
            reader.read_rows(0, 10)


def test_pages_are_counted(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "map.tif", pixels_of("uint8", (3, 9, 8)), photometric="minisblack")
    with open_map(tmp_path / "map.tif") as reader:
        assert reader.header.pages == 3


# ---------------------------------------------------------------- what cannot be read says why


def needs_codecs(path: Path, expected: NDArray[Any]) -> str | None:
    """Return the refusal of a compression that the codecs extra reads, None if it is there and reads."""
    if importlib.util.find_spec("imagecodecs") is None:
        return refusal(path)
    np.testing.assert_array_equal(read(path), expected)
    return None


def test_lzw_names_the_codecs_extra(tmp_path: Path) -> None:
    pixels = pixels_of("uint8", (20, 30))
    path = tmp_path / "map.tif"
    path.write_bytes(hand_made(tags_of(20, 30, compression=5), [lzw(pixels.tobytes())]))
    message = needs_codecs(path, pixels)
    assert message is None or ("LZW" in message and "inspect-cli[codecs]" in message)


def test_float_predictor_names_the_codecs_extra(tmp_path: Path) -> None:
    pixels = pixels_of("float32", (4, 8))
    planes = pixels.astype(">f4").view(np.uint8).reshape(4, 8, 4).transpose(0, 2, 1).reshape(4, 32)
    coded = np.diff(planes.astype(np.int16), axis=1, prepend=np.int16(0)).astype(np.uint8)
    tags = tags_of(4, 8, bits=32, compression=8) | {317: (3, [3]), 339: (3, [3])}
    path = tmp_path / "map.tif"
    path.write_bytes(hand_made(tags, [zlib.compress(coded.tobytes())]))
    message = needs_codecs(path, pixels)
    assert message is None or "inspect-cli[codecs]" in message


def test_zstandard_is_not_called_damaged(tmp_path: Path) -> None:
    if importlib.util.find_spec("imagecodecs") or importlib.util.find_spec("compression"):
        pytest.skip("Zstandard can be read here")
    path = tmp_path / "map.tif"
    path.write_bytes(hand_made(tags_of(4, 8, compression=50000), [b"\x28\xb5\x2f\xfd" + bytes(20)]))
    assert "inspect-cli[codecs]" in refusal(path)


def test_palette_is_refused_by_name(tmp_path: Path) -> None:
    tags = tags_of(4, 8, photometric=3) | {320: (3, [7] * 768)}
    (tmp_path / "map.tif").write_bytes(hand_made(tags, [bytes(32)]))
    assert "PALETTE" in refusal(tmp_path / "map.tif")


def test_packed_bits_are_named(tmp_path: Path) -> None:
    if importlib.util.find_spec("imagecodecs"):
        pytest.skip("packed bits can be read here")
    (tmp_path / "map.tif").write_bytes(hand_made(tags_of(4, 8, bits=12), [bytes(48)]))
    message = refusal(tmp_path / "map.tif")
    assert "12" in message.replace(str(tmp_path), "")
    assert "NONE" not in message


@pytest.mark.parametrize("bits", [1, 8])
def test_image_with_white_as_zero_is_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "mask.tif"
    path.write_bytes(hand_made(tags_of(4, 8, bits=bits, photometric=0), [bytes(4 * bits)]))
    assert "zero is white" in refusal(path)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_image_that_does_not_lie_upright_is_refused(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "map.tif"
    path.write_bytes(hand_made(tags_of(4, 8) | {274: (3, [orientation])}, [bytes(32)]))
    assert f"Orientation is {orientation}: " in refusal(path)


def test_image_that_says_it_is_upright_is_read(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    path.write_bytes(hand_made(tags_of(4, 8) | {274: (3, [1])}, [bytes(32)]))
    assert read(path).shape == (4, 8)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("layout", ["strips of 7", "one strip", "tiles", "hand made"])
@pytest.mark.parametrize("packed", [False, True])
def test_file_cut_at_any_byte_is_refused_by_name_or_reads_equal(tmp_path: Path, layout: str, packed: bool) -> None:
    pixels = pixels_of("uint16", (20, 9))
    path = tmp_path / "map.tif"
    if layout == "hand made":
        data = pixels.tobytes()
        whole = hand_made(tags_of(20, 9, 16, 8 if packed else 1), [zlib.compress(data) if packed else data])
    else:
        write(path, pixels, compression="zlib" if packed else None, **LAYOUTS[layout])
        whole = path.read_bytes()
    path.write_bytes(whole)
    np.testing.assert_array_equal(read(path), pixels)
    for length in range(0, len(whole), 1 if len(whole) < 700 else 3):
        path.write_bytes(whole[:length])
        if length >= len(whole) - 4 and layout == "hand made":  # only the end of the directory is missing
            assert (found := read_or_none(path)) is None or np.array_equal(found, pixels)
        else:
            refusal(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_end_is_noticed_before_any_pixel_is_read(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "map.tif"
    write(path, pixels_of("uint16", (20, 9)), **LAYOUTS[layout])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated TIFF"):
        open_map(path)
    path.write_bytes(hand_made(tags_of(4, 8), [bytes(31)]))
    with pytest.raises(InputError, match="31 of 32 pixel bytes"):
        open_map(path)


@pytest.mark.parametrize("kept", [0, 100, 128, 192])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tiled", [False, True])
def test_segment_with_too_few_pixels_is_refused(tmp_path: Path, tiled: bool, packed: bool, kept: int) -> None:
    data = bytes(range(256))
    tags = tags_of(16, 16, compression=8 if packed else 1)
    if tiled:
        tags = {k: v for k, v in tags.items() if k != 278} | {322: (3, [16]), 323: (3, [16])}
    path = tmp_path / "map.tif"
    path.write_bytes(hand_made(tags, [zlib.compress(data) if packed else data]))
    np.testing.assert_array_equal(read(path).ravel(), np.arange(256))
    path.write_bytes(hand_made(tags, [zlib.compress(data[:kept]) if packed else data[:kept]]))
    refusal(path)


def test_random_damage_gives_pixels_of_the_stated_shape_or_an_input_error(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(1), tmp_path / "map.tif"
    for layout, packed in product(LAYOUTS.values(), PACKING):
        write(path, pixels_of("uint16", (19, 23, 3)), **layout, **packed)
        whole = path.read_bytes()
        for _ in range(25):
            damaged = bytearray(whole)
            for at in rng.integers(0, min(len(whole), 500), size=3):
                damaged[at] = rng.integers(256)
            path.write_bytes(bytes(damaged))
            with contextlib.suppress(InputError), open_map(path) as reader:
                if reader.header.width * reader.header.height < 1e6:
                    assert reader.read().shape == reader.header.shape


def test_more_megapixels_than_can_be_are_refused_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    path.write_bytes(hand_made(tags_of(70_000, 70_000, compression=8), [zlib.compress(b"")]))
    assert "70000x70000" in refusal(path)
