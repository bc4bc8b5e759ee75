"""A batch folder -> its parts, by the file patterns of a recipe."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from inspect_cli.errors import IncompleteError, InputError, NoInputError, UsageError
from inspect_cli.images.reader import SUFFIXES, UNREAD
from inspect_cli.recipe.schema import NOT_A_MAP, PART, TRUTH, MapSpec
from inspect_cli.store.layout import (
    LOCK,
    PARTS_FOLDER,
    RECIPE,
    ROI_PREVIEW,
    RUN_FOLDER,
    RUN_RECORD,
    SAMPLES_PICTURE,
    TILE_INDEX,
)
from inspect_cli.store.paths import as_text, check_is_folder, without_links
from inspect_cli.store.run_record import is_run

#: Stands for a folder whose name is open.
ANY_FOLDER: Final = "*"
#: Folders of masks beside the parts, as in DAGM.
_TRUTH_FOLDERS: Final = ("label", "labels", "mask", "masks", "gt", "ground_truth")


@dataclass(frozen=True)
class Part:
    """One inspected part: its id (path below the batch folder) and the file of each map.

    ``fault`` says why the part cannot be used whatever its files hold, if it cannot.
    """

    id: str
    files: Mapping[str, Path]
    folder: Path
    missing: tuple[str, ...] = field(default=())
    fault: str | None = None

    def require_complete(self, maps: Mapping[str, MapSpec]) -> None:
        """Raise InputError if the part cannot be used or a map's file is not there, naming the file."""
        if self.fault is not None:
            raise InputError(self.fault)
        if self.missing:
            name = self.missing[0]
            wanted = expected_file(maps[name].files, self.id)
            raise IncompleteError(f"{self.id}: map {name!r} is missing: no {wanted} in {self.folder}")


def expected_file(pattern: str, part_id: str) -> str:
    """Return where a part's file lies below the batch folder by the pattern, such as ``a/P1_albedo.tif``."""
    folder, _, stem = part_id.rpartition("/")
    name = pattern.replace(PART, stem)
    return f"{folder}/{name}" if folder else name


def beside(part: Part, pattern: str) -> Path:
    """Return a part's file by a pattern that the part was not discovered with; the expected one if there is none."""
    expected = part.folder / expected_file(pattern, part.id)
    wanted = _compile(pattern)
    try:
        found = sorted(expected.parent.iterdir()) if expected.parent.is_dir() else []
    except OSError as error:
        raise InputError(f"{expected.parent}: cannot be listed ({error.strerror}); check its permissions") from error
    for path in found:
        match = wanted.match(path.relative_to(part.folder).as_posix())
        if match is not None and match["folder"] + match["stem"] == part.id:
            return path
    return expected


def truth_of(stem: str) -> str | None:
    """Return the part whose mask of defects has this name without ending, None if it is not named like one."""
    part = TRUTH.sub("", stem)
    return None if part == stem else part


def discover_parts(
    folder: Path, maps: Mapping[str, MapSpec], known: Mapping[str, MapSpec] | None = None
) -> list[Part]:
    """Return the parts below ``folder``, sorted by id.

    ``known`` are all maps of the recipe, where ``maps`` are some of them: the files of the others are none of these,
    though a wide pattern (``{part}.png``) would take them.

    A part that cannot be used (a map missing, two files for one map, a name that is no text) and a folder that
    cannot be listed are among them and say so in :meth:`Part.require_complete`, so that none is lost in silence.

    Raises
    ------
    NoInputError
        If the folder does not exist or holds no file of any of the maps.
    UsageError
        If it is a file, or the results of a run.
    """
    check_is_folder(folder)
    check_is_no_result(folder)
    found: dict[str, dict[str, Path]] = {}
    faults: dict[str, str] = {}
    patterns = _by_length({**(known or {}), **maps})
    for path in walk_files(folder, faults):
        match = _match(path.relative_to(folder).as_posix(), patterns)
        if match is None or match[0] not in maps:
            continue
        name, part = match
        text = as_text(part)
        files = found.setdefault(text, {})
        if text != part:
            faults[text] = f"{text}: the file name is no valid UTF-8; rename it"
        elif name in files:
            faults[text] = (
                f"{text}: two files for map {name!r}: {files[name].name} and {path.name}; keep one, or write the "
                f"ending into the recipe (maps.{name}.files: '{PART}{path.suffix}') if the other is a mask"
            )
        files[name] = path
    if not found and not faults:
        looked_for = ", ".join(spec.files for spec in maps.values())
        raise NoInputError(f"{folder}: no part found; looked for {looked_for}")
    return [_part(text, found.get(text, {}), folder, maps, faults) for text in sorted(found.keys() | faults.keys())]


def check_is_no_result(folder: Path) -> None:
    """Raise UsageError if a folder is a run's, or lies in one: its pictures are no parts."""
    for above in (folder.absolute(), *folder.absolute().parents):
        if is_run(above):
            raise UsageError(f"{folder}: holds the results of a run; give the folder of its parts")


def file_within(parts: Iterable[Part], folder: Path) -> Path | None:
    """Return the first file of some parts that lies in ``folder``, wherever links lead; None if none does."""
    place = without_links(folder)
    files = (path for part in parts for path in part.files.values())
    return next((path for path in files if without_links(path).is_relative_to(place)), None)


class Unused(NamedTuple):
    """Names of images that get no verdict, sorted, as text: of formats not read, named like masks, of no part.

    ``truth`` are those in folders of masks that have the name of an image elsewhere.
    """

    unread: list[str]
    masks: list[str]
    strays: list[str]
    truth: list[str]

    def told(self, maps: Mapping[str, MapSpec]) -> list[str]:
        """Return what to say of those that somebody may miss; parts were looked for by the recipe's ``maps``."""
        reasons = {
            "of formats that are not read get no verdict": self.unread,
            "named like masks or ROIs get no verdict": self.masks,
            f"of no part get no verdict (looked for {', '.join(spec.files for spec in maps.values())})": self.strays,
            "in folders of masks, named like images elsewhere, are taken for masks": self.truth,
        }
        return [f"{len(names)} image(s) {why}: {', '.join(names[:5])}" for why, names in reasons.items() if names]


def unused_images(folder: Path, parts: Sequence[Part] = ()) -> Unused:
    """Return the images below ``folder`` that get no verdict.

    Masks and ROIs of ``parts`` need none, nor do other files whose names begin like a part beside them: maps that are
    not looked at.
    """
    known = {part.id.rsplit("/", 1)[-1] for part in parts} | {f.stem for part in parts for f in part.files.values()}
    taken = {file for part in parts for file in part.files.values()}
    places = {folder / part.id for part in parts}
    found = Unused([], [], [], [])
    truth: list[Path] = []
    for path in _walk(folder, {}, truth):
        is_mask = NOT_A_MAP.search(path.name) is not None
        if path.suffix.lower() in UNREAD and not is_mask:
            found.unread.append(path.name)
        elif path.suffix.lower() not in SUFFIXES or path in taken:
            continue
        elif is_mask and NOT_A_MAP.sub("", path.name) not in known:
            found.masks.append(path.name)
        elif not is_mask and not any(path.with_name(start) in places for start in _starts(path.stem)):
            found.strays.append(path.relative_to(folder).as_posix())
    found.truth.extend(path.relative_to(folder).as_posix() for path in truth)
    return Unused(*(sorted(map(as_text, names)) for names in found))


def _starts(stem: str) -> Iterator[str]:
    """Yield the names of parts that a file's name may begin with: all of it, or up to a separator."""
    yield from (stem[:end] for end in range(1, len(stem) + 1) if not stem[end : end + 1].isalnum())


def any_file(folder: Path, maps: Mapping[str, MapSpec]) -> bool:
    """Whether there is a file of any of the maps below ``folder``."""
    try:
        return bool(discover_parts(folder, maps))
    except NoInputError:
        return False


def _part(
    text: str, files: dict[str, Path], folder: Path, maps: Mapping[str, MapSpec], faults: Mapping[str, str]
) -> Part:
    return Part(text, files, folder, tuple(name for name in maps if name not in files), faults.get(text))


def walk_files(folder: Path, faults: dict[str, str]) -> Iterator[Path]:
    """Yield the files below ``folder`` that may be maps, sorted.

    Hidden files and folders, masks, and what this program wrote are left out; links are followed once. Files named
    like ``P1_label`` and ``P1_GT`` are masks where ``P1`` lies beside them, or beside their folder ``label``; so are
    those in and below such a folder that have the name of an image outside of it, or are named like its mask.
    A folder that cannot be listed is noted in ``faults`` under its path below ``folder``.
    """
    yield from (path for path in _walk(folder, faults) if not NOT_A_MAP.search(path.name))


def _walk(folder: Path, faults: dict[str, str], truth: list[Path] | None = None) -> Iterator[Path]:
    """Yield what :func:`walk_files` does, and the files that are named like masks and ROIs.

    Images in folders of masks that are left out for the name of an image elsewhere are added to ``truth``.
    """
    folders = list(walk_folders(folder, faults))
    is_truth = {root: _is_of_truth(root.relative_to(folder)) for root, _ in folders}
    images = {
        Path(name).stem
        for root, names in folders
        for name in names
        if not is_truth[root] and name.lower().endswith(SUFFIXES)
    }
    for root, names in folders:
        stems = {Path(name).stem for name in names}
        for name in sorted(names):
            stem = Path(name).stem
            if truth_of(stem) in stems:
                continue  # the mask of a part that lies beside it
            if is_truth[root] and (stem in images or truth_of(stem) in images):
                if truth is not None and truth_of(stem) is None and name.lower().endswith(SUFFIXES):
                    truth.append(root / name)
                continue
            is_samples = root != folder and name == SAMPLES_PICTURE and root.name == RUN_FOLDER
            if not (name.startswith(".") or is_samples):
                yield root / name


def _is_of_truth(place: Path) -> bool:
    """Whether a folder below the batch, or one that it lies in, is named like one of masks."""
    return any(name.lower() in _TRUTH_FOLDERS for name in place.parts)


def masks_elsewhere(folder: Path) -> dict[Path, list[Path]]:
    """Return the images in folders of masks below ``folder``, by where their part may lie, without an ending.

    ``masks/P1.png`` is of ``P1`` or ``images/P1``, ``Label/P1_label.png`` of ``P1``, and
    ``ground_truth/dent/P1_mask.png`` of ``dent/P1`` or ``test/dent/P1``; a folder whose name is open stands as
    ``ANY_FOLDER``.
    """
    found: dict[Path, list[Path]] = {}
    for root, names in walk_folders(folder, {}):
        place = root.relative_to(folder)
        if not _is_of_truth(place):
            continue
        inner = [part for part in place.parts if part.lower() not in _TRUTH_FOLDERS]
        for name in names:
            stem = Path(name).stem
            if name.startswith(".") or not name.lower().endswith(SUFFIXES) or stem.lower().endswith("_roi"):
                continue
            stem = truth_of(stem) or stem
            for at in range(len(inner) + 1):
                found.setdefault(Path(*inner[:at], ANY_FOLDER, *inner[at:], stem), []).append(root / name)
            found.setdefault(Path(*inner, stem), []).append(root / name)
    return found


def walk_folders(folder: Path, faults: dict[str, str]) -> Iterator[tuple[Path, list[str]]]:
    """Yield ``folder`` and the folders below it, each with the names of its files.

    Hidden folders and what this program wrote are left out; links are followed once. A folder that cannot be listed
    is noted in ``faults`` under its path below ``folder``.
    """

    def note(error: OSError) -> None:
        place = as_text(os.path.relpath(error.filename or folder, folder))
        named = as_text(str(error.filename))
        faults[place] = f"{named}: cannot be listed ({error.strerror}); check its permissions"

    seen: set[str] = set()
    for text, folders, names in os.walk(folder, onerror=note, followlinks=True):
        root, real = Path(text), os.path.realpath(text)
        if real in seen or (root != folder and _is_output(root, folders, names)):
            folders.clear()  # a link in a circle, or results
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield root, names


def _is_output(folder: Path, folders: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a folder was written by ``inspect score``, which may have lost its record, ``tile`` or ``train``."""
    has_lost_record = folder.parent.name == RUN_FOLDER and PARTS_FOLDER in folders and LOCK in names
    is_material = RECIPE in names and (ROI_PREVIEW in names or any((folder / f / LOCK).exists() for f in folders))
    return TILE_INDEX in names or is_material or has_lost_record or (RUN_RECORD in names and is_run(folder))


def _by_length(maps: Mapping[str, MapSpec]) -> list[tuple[str, re.Pattern[str]]]:
    """Return the patterns, the most specific first: ``{part}_albedo.tif`` goes before ``{part}.tif``."""
    ordered = sorted(maps, key=lambda name: -len(maps[name].files))
    return [(name, _compile(maps[name].files)) for name in ordered]


def _match(relative: str, patterns: list[tuple[str, re.Pattern[str]]]) -> tuple[str, str] | None:
    for name, pattern in patterns:
        match = pattern.match(relative)
        if match is not None:
            return name, match["folder"] + match["stem"]
    return None


def _compile(pattern: str) -> re.Pattern[str]:
    """Turn ``sub/{part}_albedo.tif`` into a regular expression over paths below the folder."""
    head, _, tail = pattern.partition(PART)
    stem, _, ending = tail.rpartition(".")
    if ending == "*":
        endings = "|".join(re.escape(s[1:]) for s in SUFFIXES)
    else:
        endings = {"tif": "tiff?", "tiff": "tiff?", "jpg": "jpe?g", "jpeg": "jpe?g"}.get(
            ending.lower(), re.escape(ending)
        )
    return re.compile(
        rf"(?P<folder>(?:.*/)?){re.escape(head)}(?P<stem>[^/]+){re.escape(stem)}\.(?i:{endings})$", re.DOTALL
    )
