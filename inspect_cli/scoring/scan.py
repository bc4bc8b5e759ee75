"""One part, opened and checked, as blocks of raw rows of all its maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

import numpy as np

from inspect_cli.arrays import Rows
from inspect_cli.images import ImageHeader, MapReader, Part, find_roi, open_map
from inspect_cli.images.contract import check_header, check_registered
from inspect_cli.material.manifest import Acquisition
from inspect_cli.scoring.clock import Clock
from inspect_cli.scoring.mapstream import MapStream
from inspect_cli.scoring.model import ScoringModel
from inspect_cli.scoring.moments import PixelMoments
from inspect_cli.scoring.usual import UsualMap

#: Share of the least width and of the least height in training below which an image may not be all of a part.
_LEAST_SIDE: Final = 0.75


class PartScan:
    """Opens every map of a part; raises InputError before any pixel is read if one breaks the contract."""

    def __init__(self, part: Part, model: ScoringModel, clock: Clock) -> None:
        self._model = model
        self.on_rows: Callable[[float], None] = lambda _share: None
        with ExitStack() as stack:  # closes what is open if one map is refused
            self._open(part, model, clock, stack)
            self._stack = stack.pop_all()

    def _open(self, part: Part, model: ScoringModel, clock: Clock, stack: ExitStack) -> None:
        maps = model.maps
        part.require_complete(maps)
        readers = {name: stack.enter_context(open_map(part.files[name], model.max_mpixels)) for name in maps}
        self.headers: dict[str, ImageHeader] = {name: reader.header for name, reader in readers.items()}
        for name, header in self.headers.items():
            trained = np.dtype(model.bundle.manifest.maps[name].dtype)
            check_header(header, maps[name], model.recipe.size_px, trained)
        check_registered(self.headers)
        first = next(iter(self.headers.values()))
        self.height, self.width = first.height, first.width
        with clock.phase("read"):
            self.roi = find_roi(model.recipe, part, model.material.folder, (self.height, self.width))
            usual = {name: self._usual(name, reader) for name, reader in readers.items()}
        self.streams = {
            name: MapStream(
                reader=readers[name],
                preprocess=model.bundle.manifest.maps[name].preprocess,
                engine=model.engines[name],
                tiles=model.tiles,
                roi=self.roi,
                clock=clock,
                usual=usual[name],
            )
            for name in maps
        }

    def _usual(self, name: str, reader: MapReader) -> UsualMap | None:
        """Return the measure of each place of a map; None where it is not known, or of another size."""
        usual = self._model.usual.get(name)
        if usual is None or not usual.fits(self.height, self.width):
            return None
        return usual.of_part(reader, self._model.bundle.manifest.maps[name].preprocess.range, self.roi)

    def blocks(self) -> Iterator[dict[str, Rows]]:
        """Yield blocks of raw rows, the same rows of every map, top to bottom."""
        iterators = [stream.rows() for stream in self.streams.values()]
        done = 0
        for rows in zip(*iterators, strict=True):
            yield dict(zip(self.streams, rows, strict=True))
            done += len(rows[0])
            self.on_rows(done / self.height)

    def acquisition_faults(self) -> list[str]:
        """Return why the pictures do not look like those of the training, map by map; call at the end."""
        faults = []
        for name, stream in self.streams.items():
            limits = self._model.bundle.manifest.maps[name].acquisition
            faults += [f"map {name}: {text}" for text in _faults(stream.moments, limits)]
            usual = self._model.usual.get(name)
            if usual is not None and stream.usual is None:
                less = f" and up to {usual.slack_px} px less" if usual.slack_px else ""
                faults.append(
                    f"map {name}: is of {self.width}x{self.height} px, the training images of "
                    f"{usual.width_px}x{usual.height_px} px{less}, where good parts always lie alike"
                )
        return faults

    def gaps(self) -> list[str]:
        """Return what may have been left unseen; call at the end.

        Values that are no numbers, of which some engines make a score; an ROI that covers more or less of the image
        than in training: damage at a part's rim may be taken for background; an image far smaller than those of the
        training: half a transfer, or a thumbnail.
        """
        missing = {name: stream.moments.missing for name, stream in self.streams.items()}
        found = [f"map {name}: {n} values inside the ROI are no finite numbers" for name, n in missing.items() if n]
        usual = self._model.bundle.manifest.roi_share
        share = 1.0 if self.roi is None else float(self.roi.mean())
        if usual is not None and not usual.low <= share <= usual.high:
            found.append(
                f"the ROI covers {share:.1%} of the image, in training {usual.low:.1%} to {usual.high:.1%} (a "
                "damaged rim, another lamp, or was `roi` changed since?)"
            )
        least = self._model.bundle.manifest.least_size_px
        if least is not None and (self.width < _LEAST_SIDE * least[0] or self.height < _LEAST_SIDE * least[1]):
            found.append(
                f"is of {self.width}x{self.height} px, the training images of {least[0]}x{least[1]} px or more: is "
                "it all of the part?"
            )
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _faults(moments: PixelMoments, limits: Sequence[Acquisition]) -> Iterator[str]:
    """Yield what of an image lies outside the limits of its channels, or of all of them together if there is one."""
    if len(limits) == 1:
        yield from _compare("", moments.mean, moments.spread, limits[0])
        return
    found = zip(moments.channel_means, moments.channel_spreads, limits, strict=True)
    for number, (mean, spread, limit) in enumerate(found, start=1):
        yield from _compare(f"channel {number}: ", mean, spread, limit)


def _compare(channel: str, mean: float, spread: float, limits: Acquisition) -> Iterator[str]:
    if not limits.mean_low <= mean <= limits.mean_high:
        yield (
            f"{channel}mean brightness {mean:.3f} is outside {limits.mean_low:.3f} to {limits.mean_high:.3f}, "
            "the range of the training images (lamp, exposure or filter?)"
        )
    if not limits.spread_low <= spread <= limits.spread_high:
        yield (
            f"{channel}contrast {spread:.4f} is outside {limits.spread_low:.4f} to {limits.spread_high:.4f}, "
            "the range of the training images (focus, lamp or missing part?)"
        )
