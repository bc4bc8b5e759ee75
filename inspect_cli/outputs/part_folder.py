"""All files of one part, written while its rows stream by; ``part.json`` comes last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inspect_cli.ahead import ahead
from inspect_cli.arrays import Mask, Rows
from inspect_cli.errors import InputError
from inspect_cli.images import open_map, read_mask
from inspect_cli.images.reduced import BlockReducer, preview_scale
from inspect_cli.material.manifest import Calibration
from inspect_cli.outputs.outlines import outlines
from inspect_cli.outputs.png_stream import MaskWriter
from inspect_cli.outputs.record import Findings, findings
from inspect_cli.outputs.tiff_stream import TiffRowWriter
from inspect_cli.pictures.plots import save_patch_histogram
from inspect_cli.pictures.previews import encode_png, save_heatmap, save_overlay
from inspect_cli.recipe.schema import ScoringSpec
from inspect_cli.scoring.clock import Clock
from inspect_cli.scoring.judge import Judge
from inspect_cli.scoring.mapstream import PatchScores
from inspect_cli.store.atomic import write_bytes, write_json
from inspect_cli.store.layout import ALL_OUTPUTS, HEATMAP, MASK, OUTPUTS, PART_RECORD, PATCHES, ROI_MASK
from inspect_cli.store.parquet import write_parquet
from inspect_cli.store.part_record import PartRecord
from inspect_cli.store.patches import by_map

Pictures = dict[str, NDArray[np.uint8]]
_REPLAY_ROWS: Final = 256
#: Pictures that are drawn at once.
_DRAWERS: Final = 3


@dataclass(frozen=True)
class PartPlan:
    """Where a part's files go, which of ``OUTPUTS`` there are, and what its verdict rests on.

    ``doubt`` is why no part may pass; the pictures of scores say it.
    """

    folder: Path
    height: int
    width: int
    roi: Mask | None
    calibration: Calibration
    scoring: ScoringSpec
    pixel_pitch_um: float | None
    outputs: frozenset[str]
    doubt: str | None


class Found(NamedTuple):
    """What was found on a part, and a reduced picture of its scores if it was wanted."""

    findings: Findings
    preview: Rows | None


def remove_others(folder: Path, outputs: frozenset[str]) -> None:
    """Remove what an earlier run wrote into a part's folder and this one does not."""
    for name in ALL_OUTPUTS - outputs:
        for pattern in OUTPUTS[name]:
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)


def write_findings(
    plan: PartPlan,
    blocks: Iterable[Mapping[str, Rows]],
    clock: Clock,
    store_raw: bool,
    faults: Callable[[], list[str]],
    gaps: Callable[[], list[str]],
) -> Found:
    """Judge blocks of raw rows and write maps, mask and heatmap; return what was found.

    Parameters
    ----------
    plan
        Where to write, size, ROI and limits.
    blocks
        Raw rows of every map, from the network or from stored maps.
    clock
        Counts judging and writing.
    store_raw
        Whether the raw maps are written if they are wanted; they are there when stored maps are judged again.
    faults
        Called after the last block: reasons not to trust the pictures.
    gaps
        The same for what may have been left unseen; see :class:`~inspect_cli.store.part_record.PartRecord`.
    """
    limits = {name: limit.pixel for name, limit in plan.calibration.limits.items()}
    scoring = plan.scoring
    judge = Judge(limits, plan.width, plan.roi, scoring.min_area_px, plan.height, scoring.halo_share, scoring.halo_px)
    reducer = BlockReducer(preview_scale(plan.height, plan.width), "max") if "pictures" in plan.outputs else None
    with ExitStack() as stack:
        mask = stack.enter_context(MaskWriter(plan.folder / MASK, plan.height, plan.width))
        heatmap = _map_writer(plan, HEATMAP, stack) if "heatmap" in plan.outputs else None
        raw_writers = {
            name: _map_writer(plan, f"maps/{name}.tif", stack)
            for name in (limits if store_raw and "maps" in plan.outputs else ())
        }
        for block in ahead(blocks):
            with clock.phase("judge"):
                fused, flagged = judge.push(block)
                if reducer is not None:
                    reducer.push(fused)
            with clock.phase("write"):
                if heatmap is not None:
                    heatmap.push(fused)
                if len(flagged):
                    mask.push(flagged)
                for name, writer in raw_writers.items():
                    writer.push(block[name])
        with clock.phase("write"):
            if len(flagged := judge.finish()):
                mask.push(flagged)
            stack.close()
    missing = gaps()
    judgement = judge.decide(faults(), missing if plan.doubt is None else [*missing, plan.doubt])
    found = findings(judgement, judge, plan.pixel_pitch_um)
    found.part.update(gaps=missing, outlines=outlines(mask, judgement.regions))
    return Found(found, None if reducer is None else reducer.result())


def _map_writer(plan: PartPlan, name: str, stack: ExitStack) -> TiffRowWriter:
    return stack.enter_context(TiffRowWriter(plan.folder / name, plan.height, plan.width, plan.pixel_pitch_um))


def write_part(
    plan: PartPlan,
    found: Found,
    head: Mapping[str, Any],
    patches: pa.Table,
    pictures: Pictures,
    clock: Clock,
) -> PartRecord:
    """Write pictures, patches and, last, the record of a part; return the record.

    ``head`` holds the keys of the record that do not follow from maps and limits.
    """
    folder, (said, preview) = plan.folder, found
    scale = preview_scale(plan.height, plan.width)
    with clock.phase("write"):
        if preview is not None:
            _write_pictures(plan, patches, pictures, preview, said.part, scale)
        write_parquet(folder / PATCHES, patches)
    record = PartRecord.model_validate(
        {
            **head,
            **said.part,
            "maps": {name: head["maps"][name] | scores for name, scores in said.maps.items()},
            "outputs": sorted(plan.outputs),
            "preview_scale": scale,
            "timing_s": clock.seconds(),
        }
    )
    write_json(folder / PART_RECORD, record.model_dump())
    return record


def _write_pictures(
    plan: PartPlan, patches: pa.Table, pictures: Pictures, preview: Rows, found: Mapping[str, Any], scale: int
) -> None:
    """Draw all pictures of a part, several at once."""
    folder, caution = plan.folder, plan.doubt and f"not to be trusted: {plan.doubt}"
    regions = [region.model_dump() for region in found["regions"][:50]]
    shown = (found["peak"] or {}).get("map") or next(iter(pictures))

    def save_image(name: str) -> None:
        encoded = encode_png(pictures[name])
        write_bytes(folder / "maps" / f"{name}.png", encoded)
        if name == shown:
            write_bytes(folder / "image.png", encoded)

    with ThreadPoolExecutor(_DRAWERS) as pool:
        drawn = [
            pool.submit(save_patch_histogram, folder / "histogram.png", by_map(patches, "score")),
            pool.submit(save_overlay, folder / "overlay.png", pictures[shown], preview, regions, scale, caution),
            pool.submit(save_heatmap, folder / "heatmap.png", preview, caution),
            *(pool.submit(save_image, name) for name in pictures),
        ]
    for picture in drawn:
        picture.result()


def patch_table(part: str, patches: Mapping[str, PatchScores], calibration: Calibration) -> pa.Table:
    """Return the patches of a part: part, map, x_px, y_px, roi_share, residual_mean, score (1 = limit)."""
    tables = []
    for name, found in patches.items():
        count = len(found.x_px)
        tables.append(
            pa.table(
                {
                    "part": pa.array([part] * count).dictionary_encode(),
                    "map": pa.array([name] * count).dictionary_encode(),
                    "x_px": found.x_px,
                    "y_px": found.y_px,
                    "roi_share": found.roi_share,
                    "residual_mean": found.residual_mean,
                    "score": found.residual_mean / np.float32(calibration.limits[name].patch),
                }
            )
        )
    return pa.concat_tables(tables).unify_dictionaries()


def rescored_patches(table: pa.Table, calibration: Calibration) -> pa.Table:
    """Return a stored patch table with its score column for new limits."""
    names = table["map"].to_pylist()
    limit = np.array([calibration.limits[name].patch for name in names], np.float32)
    score = table["residual_mean"].to_numpy() / limit
    return table.set_column(table.schema.get_field_index("score"), "score", pa.array(score))


def write_roi(folder: Path, roi: Mask | None) -> None:
    """Keep the ROI beside the maps, so that they can be judged again."""
    if roi is None:
        (folder / ROI_MASK).unlink(missing_ok=True)
        return
    with MaskWriter(folder / ROI_MASK, *roi.shape) as writer:
        writer.push(roi)


def stored_roi(folder: Path, height: int, width: int) -> Mask | None:
    """Return the ROI that was kept, None for the whole image."""
    path = folder / ROI_MASK
    return read_mask(path, height, width) if path.is_file() else None


def stored_blocks(folder: Path, names: Iterable[str], height: int, width: int) -> Iterator[dict[str, Rows]]:
    """Yield blocks of rows of the stored raw maps.

    Raises
    ------
    InputError
        If a map cannot be read, or is not what was written there.
    """
    with ExitStack() as stack:
        readers = {name: stack.enter_context(open_map(folder / "maps" / f"{name}.tif")) for name in names}
        for header in (reader.header for reader in readers.values()):
            if header.shape != (height, width) or header.dtype != np.float32:
                raise InputError(f"{header.path}: is no map of {width}x{height} px that was stored here")
        for bands in zip(*(reader.bands(_REPLAY_ROWS) for reader in readers.values()), strict=True):
            yield {name: rows for name, (_, rows) in zip(readers, bands, strict=True)}
