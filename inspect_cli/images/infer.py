"""Maps of a folder that comes without a recipe, from its file names and headers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import numpy as np

from inspect_cli.errors import InputError, NoInputError, UsageError
from inspect_cli.images.parts import Part, discover_parts, unused_images, walk_files
from inspect_cli.images.reader import SUFFIXES, ImageHeader, open_map
from inspect_cli.recipe.schema import MAX_CHANNELS, MapSpec
from inspect_cli.recipe.template import KNOWN_MAPS
from inspect_cli.store.paths import check_is_folder

#: Endings of file names that tell what a map is.
KNOWN_NAMES = tuple(KNOWN_MAPS)
#: Endings that one pattern of either takes.
_FORMATS: Final = {".tiff": ".tif", ".jpeg": ".jpg"}
JPEG: Final = (".jpg", ".jpeg")
#: Words in the name of a folder that say what its parts are, and those that turn that round.
_DEFECTIVE: Final = frozenset(
    {"anomalies", "anomalous", "anomaly", "bad", "def", "defect", "defective", "defects", "fail", "failed", "faulty"}
    | {"ng", "nio", "nok", "reject", "rejects", "scrap"}
)
_DENIALS: Final = frozenset({"free", "no", "non", "not", "without"})
#: Parts of which the names of maps can be told, and the share of the files that must be named so.
_FEW_PARTS: Final = 3
_NEARLY_ALL: Final = 0.9
#: Files of a map whose headers are looked at, about.
_HEADERS: Final = 100
#: Files that may be masks, of which the pixels are looked at, about.
_MASKS: Final = 10


def infer_maps(folder: Path) -> dict[str, MapSpec]:
    """Return the maps below ``folder``: ``*_albedo.tif`` and its like, else one map ``image`` of any format.

    Known names count only where most files have one: a single photograph ``dent_normal.png`` makes no map. Channels
    are those that most files of a map have; where JPEGs lie beside masks of their names, the JPEGs are the parts; the
    value range of 8-bit maps is their type's, of others that of the
    training images.

    Raises
    ------
    NoInputError
        If there is no readable image.
    """
    names = _image_names(folder)
    patterns: dict[str, str] = {}
    count = 0
    for name in KNOWN_NAMES:
        own = [Path(n) for n in names if Path(n).stem.lower().endswith(f"_{name}")]
        count += len(own)
        if own:
            endings = Counter(path.suffix for path in own)
            same = len({_FORMATS.get(ending.lower(), ending.lower()) for ending in endings}) == 1
            written = Counter(path.stem[-len(name) :] for path in own).most_common(1)[0][0]
            patterns[name] = f"{{part}}_{written}{endings.most_common(1)[0][0] if same else '.*'}"
    if count <= len(names) / 2:
        patterns = {"image": "{part}.jpg" if _masks_beside_photographs(folder) else "{part}.*"}
    maps = {}
    for name, files in patterns.items():
        header = _usual_header(folder, name, files)
        # Few cameras use the whole range of 16 bits or more, and floats have none: learn it from the images.
        span: Literal["type", "train"] = "type" if header.dtype.itemsize == 1 else "train"
        maps[name] = MapSpec(files=files, channels=header.channels, range=span)
    return maps


def check_told_apart(folder: Path, maps: Mapping[str, MapSpec]) -> None:
    """Raise UsageError if the names, or their folders, say what map it is, but not as ``P1_albedo`` does.

    They would be taken for as many parts of the one map of ``maps``, and one network would learn all of them.
    """
    if len(maps) > 1 or next(iter(maps)) in KNOWN_NAMES:
        return
    images = [path for path in walk_files(folder, {}) if path.name.lower().endswith(SUFFIXES)]
    kinds = [_kind(path.stem) or _kind(path.parent.name) for path in images]
    found = Counter(kind for kind in kinds if kind is not None)
    if len(found) > 1 and found.total() > len(kinds) / 2:
        raise UsageError(
            f"{folder}: the files seem to be maps ({', '.join(sorted(found))}), but are not named <part>_<map>, such "
            "as P1_albedo.tif; rename them, or write their names into a recipe: inspect recipe new NAME --maps "
            f"{','.join(sorted(found))}"
        )
    if own := sorted(_own_names(images)):
        raise UsageError(
            f"{folder}: each part seems to have several maps ({', '.join(own)}); say so in a recipe, `inspect recipe "
            f"new NAME --maps {','.join(own)}`, or, if each file is a part of its own, `inspect recipe new NAME "
            "--maps image`, with files: '{part}.*' in it"
        )


def _own_names(images: Iterable[Path]) -> set[str]:
    """Return the endings such as ``height`` in ``P1_height.tif`` if nearly every part has the same two or more.

    Endings are words without a digit: ``P1_2.png`` is a second photograph.
    """
    endings: dict[Path, set[str]] = {}
    count = 0
    for path in images:
        count += 1
        start, _, ending = path.stem.rpartition("_")
        if start and ending.isalpha():
            endings.setdefault(path.with_name(start), set()).add(ending)
    if len(endings) < _FEW_PARTS:
        return set()
    usual, parts = Counter(map(frozenset, endings.values())).most_common(1)[0]
    return set(usual) if len(usual) > 1 and len(usual) * parts >= _NEARLY_ALL * count else set()


def _kind(name: str) -> str | None:
    """Return the known map that is a word of a name, in the plural too; None if there is none."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((kind for kind in KNOWN_NAMES if kind in words or f"{kind}s" in words), None)


def _image_names(folder: Path) -> list[str]:
    check_is_folder(folder)
    names = [path.name for path in walk_files(folder, {}) if path.name.lower().endswith(SUFFIXES)]
    if not names:
        left = unused_images(folder).unread
        others = f", but {len(left)} of a format that is not read, such as {left[0]}" if left else ""
        raise NoInputError(f"{folder}: no image found ({', '.join(SUFFIXES)}){others}")
    return names


def unmatched(folder: Path, maps: Mapping[str, MapSpec]) -> list[str]:
    """Return the names of image files below ``folder`` that are of none of the maps."""
    taken = {path.name for part in discover_parts(folder, maps) for path in part.files.values()}
    return sorted(set(_image_names(folder)) - taken)


def _masks_beside_photographs(folder: Path) -> bool:
    """Whether most JPEGs have a PNG of their name beside them that is a mask: at most one value besides 0."""
    files = set(walk_files(folder, {}))
    photographs = [path for path in files if path.suffix.lower() in JPEG]
    masks = sorted({path.with_suffix(".png") for path in photographs} & files)
    return 2 * len(masks) > len(photographs) and all(map(is_mask, masks[:: max(1, len(masks) // _MASKS)]))


def is_mask(path: Path) -> bool:
    """Whether an image holds at most one value besides 0; one that cannot be read is none."""
    try:
        with open_map(path) as reader:
            values = np.unique(reader.read())
    except InputError:
        return False
    return values.size == 1 or (values.size == 2 and values[0] == 0)


def _usual_header(folder: Path, name: str, files: str) -> ImageHeader:
    """Return the first header of those that most of a map's files share in channels and type."""
    reasons = []
    headers: dict[tuple[int, str], list[ImageHeader]] = {}
    parts = discover_parts(folder, {name: MapSpec(files=files)})
    for part in parts[:: max(1, len(parts) // _HEADERS)]:
        try:
            part.require_complete({name: MapSpec(files=files)})
            with open_map(part.files[name]) as reader:
                header = reader.header
        except InputError as error:
            reasons.append(str(error))
            continue
        if header.channels <= MAX_CHANNELS:
            headers.setdefault((header.channels, header.dtype.str), []).append(header)
        else:
            reasons.append(f"{header.path}: has {header.channels} channels; at most {MAX_CHANNELS} are supported")
    if headers:
        return max(headers.values(), key=len)[0]
    raise NoInputError(f"{folder}: no readable image: {reasons[0]}")


def training_root(folder: Path) -> Path:
    """Return where the good training images of a data set lie: ``train/good``, ``train``, ``good``, or the folder.

    A folder with ``train`` and ``test`` in it is a whole data set; nothing of ``test`` may be learnt, nor what lies
    beside ``good``. ``Train`` and ``Good`` are the same.
    """
    for name in ("train", "good"):
        folder = _inner(folder, name) or folder
    return folder


def named_defective(parts: Iterable[Part]) -> dict[str, int]:
    """Return the folders below the batch whose names say that their parts are defective, and how many parts each has.

    ``bad``, ``def_front`` and ``NOK`` say so, ``defect-free`` does not.
    """
    folders = Counter(part.id.rpartition("/")[0] for part in parts)
    return {name: count for name, count in sorted(folders.items()) if _says_defective(name)}


def beside_good(parts: Iterable[Part]) -> set[str]:
    """Return the folders that lie beside one named ``good``: of a data set, with parts that are not."""
    folders = {PurePosixPath(part.id).parent for part in parts}
    good = {folder for folder in folders if folder.name.lower() == "good"}
    above = {folder.parent for folder in good}
    return {folder.as_posix() for folder in folders - good if folder.parent in above}


def _says_defective(folder: str) -> bool:
    return any(
        words & _DEFECTIVE and not words & _DENIALS
        for words in (set(re.findall(r"[a-z]+", name.lower())) for name in folder.split("/"))
    )


def _inner(folder: Path, name: str) -> Path | None:
    """Return a folder's folder of that name, whatever its capitals; the one that is written so goes first."""
    if (folder / name).is_dir():
        return folder / name
    try:
        found = sorted(path for path in folder.iterdir() if path.name.lower() == name and path.is_dir())
    except OSError:
        return None
    return found[0] if found else None
