"""``part.json``: what was found on a part and what it was found from. It is written last: the part is done."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inspect_cli.errors import InputError, first_fault
from inspect_cli.store.layout import ALL_OUTPUTS, PART_RECORD


class Entry(BaseModel):
    """Base of all that is in the record: read, not changed; unknown keys are passed over."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


#: Before the names of files that only the ROI needs, among the inputs of a part.
ROI_INPUT: Final = "roi: "


class PartKey(Entry):
    """What a result depends on, as hashes: same key, same result.

    ``inputs`` are the part's files by map, and those that only its ROI needs (``ROI_INPUT``); ``scoring`` is what
    the raw maps depend on beside them, ``limits`` what the verdict depends on beside the raw maps.
    """

    inputs: dict[str, str]
    scoring: str
    limits: str

    def same_maps(self, other: PartKey) -> bool:
        """Whether another key stands for the same raw maps."""
        return (self.inputs, self.scoring) == (other.inputs, other.scoring)


class Peak(Entry):
    """Where the highest score of a part lies, and of which map it is."""

    x_px: int
    y_px: int
    map: str


class MapRecord(Entry):
    """One map: the file that was read, mean and spread of its pixels (unit range), its largest residual, its limit.

    ``limit`` and ``raw_max`` are residuals, ``score`` is one over the other. None where nothing was scored.
    """

    file: str
    sha256: str
    mean: float
    spread: float
    score: float | None = Field(ge=0)
    raw_max: float | None = Field(ge=0)
    limit: float = Field(gt=0)
    x_px: int
    y_px: int


class RegionRecord(Entry):
    """A region above the limit: its box, area and scores; lengths in mm where the pixel's pitch is known."""

    region: int
    map: str
    x_px: int
    y_px: int
    width_px: int
    height_px: int
    area_px: int
    score_max: float
    score_mean: float
    peak_x_px: int
    peak_y_px: int
    x_mm: float | None
    y_mm: float | None
    width_mm: float | None
    height_mm: float | None
    area_mm2: float | None


class PartRecord(Entry):
    """A part that is done.

    ``seen`` is size, modification time (ns) and inode of each file when it was read. ``acquisition_faults`` are
    reasons not to trust the pictures, ``gaps`` why something may have been left unseen: values that are no numbers, a
    small image, an ROI of unusual size. ``regions`` lists the strongest of ``region_count``, ``outlines`` has closed
    rings of [x, y] of the first of them.
    """

    format: Literal[1]
    part: str
    key: PartKey
    seen: list[tuple[int, int, int]]
    size_px: tuple[int, int]
    acquisition_faults: list[str]
    scored_utc: str
    maps: dict[str, MapRecord]
    verdict: Literal["pass", "fail", "undecided"]
    reasons: list[str]
    score: float | None = Field(ge=0)
    peak: Peak | None
    roi_px: int
    uncovered_px: int
    defect_area_px: int
    defect_area_mm2: float | None
    region_count: int
    regions: list[RegionRecord]
    gaps: list[str]
    outlines: list[list[tuple[int, int]]]
    outputs: list[str]
    preview_scale: int
    timing_s: dict[str, float]

    @model_validator(mode="after")
    def _check_maps(self) -> Self:
        for name in self.key.inputs:
            if name not in self.maps and not name.startswith(ROI_INPUT):
                raise ValueError(f"map {name} is missing")
        return self

    def brief(self) -> Self:
        """Return the record without its regions, which can be many: those of a whole night stay on disk."""
        return self.model_copy(update={"regions": [], "outlines": []})

    @property
    def written(self) -> frozenset[str]:
        """Which of ``OUTPUTS`` the part has."""
        return ALL_OUTPUTS.intersection(self.outputs)

    @property
    def peak_map(self) -> str | None:
        """The map with the highest score, None if nothing was scored."""
        return None if self.peak is None else self.peak.map

    @property
    def seconds(self) -> float:
        """How long scoring took, or judging again."""
        return self.timing_s.get("total", 0.0)


def read_part_record(folder: Path, name: str = PART_RECORD) -> PartRecord:
    """Read the record of a part's folder.

    Raises
    ------
    InputError
        If it is not there, damaged, or of another version; the message names the first fault.
    """
    path = folder / name
    try:
        return PartRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); score the part again") from error
    except ValidationError as error:
        key, fault = first_fault(error)
        raise InputError(f"{path}: {key or 'file'}: {fault}; score the part again") from error
