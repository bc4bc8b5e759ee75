"""The recipe's keys, their types, limits and meaning. ``docs/recipe.md`` is generated from here."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import to_json

from inspect_cli.recipe.budget import Budget

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
PART = "{part}"
MAX_CHANNELS = 64
#: How the masks of defects are named after their parts: here, and in the data sets of Kolektor.
TRUTH = re.compile(r"_(mask|label|gt)$", re.IGNORECASE)
#: Files that lie beside the maps but are none.
NOT_A_MAP = re.compile(r"_(mask|roi)\.[^.]+$", re.IGNORECASE)

Dtype = Literal["uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"]
Pixels = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are fixed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _relative_pattern(pattern: str) -> str:
    path = PurePosixPath(pattern)
    if path.is_absolute() or ".." in path.parts or "\\" in pattern:
        raise ValueError("must be a relative file name below the batch folder, without '..'")
    return pattern


class MapSpec(Section):
    """One registered map of a part, written as one file."""

    files: str = Field(
        description="File name pattern; `{part}` stands for the part's id. An ending `.*` takes any "
        "readable format. Example: `{part}_albedo.tif`."
    )
    channels: int = Field(1, ge=1, le=MAX_CHANNELS, description="Number of channels; one network input each.")
    dtype: Dtype | None = Field(
        None, description="Pixel type that files must have. Empty: the type of the training files."
    )
    range: tuple[float, float] | Literal["type", "train"] = Field(
        "type",
        description="Stored values that become 0 and 1 at the network's input. `type`: the limits of the "
        "integer type, symmetric around zero for signed types so that a signed normal keeps its sign; "
        "0 to 1 for floats. `train`: the 0.1 % and 99.9 % quantiles of the training images, "
        "which new recipes have except for maps that are found to be of 8 bits. "
        "Or two numbers, such as `[-1, 1]`.",
    )

    @field_validator("files")
    @classmethod
    def _check_pattern(cls, pattern: str) -> str:
        if pattern.count(PART) != 1:
            raise ValueError("must contain {part} exactly once, such as '{part}_albedo.tif'")
        if not re.search(r"\.(\w+|\*)$", pattern.partition(PART)[2]):
            raise ValueError("must end with a file type such as '.tif', or with '.*' for any")
        return _relative_pattern(pattern)

    @field_validator("range")
    @classmethod
    def _check_range(cls, value: tuple[float, float] | str) -> tuple[float, float] | str:
        if isinstance(value, tuple) and not (math.isfinite(value[1] - value[0]) and value[0] < value[1]):
            raise ValueError("must be two finite numbers, the first below the second")
        return value


class RoiSpec(Section):
    """Where the material is; everything outside is ignored in training, scores and limits."""

    rule: Literal["none", "file", "saturated", "dark", "foreground"] = Field(
        "none",
        description="`none`: the whole image. `file`: a mask image, nonzero inside. `saturated`: areas at "
        "the upper end of the map's range that touch the image border are outside. `dark`: areas at zero that touch "
        "the image border are outside, by 2 % of the range. The range is that of the map if numbers are given there, "
        "else that of the bits in use; in a map with negative values `dark` is 0 alone. For both, NaN and infinite "
        "pixels count as such areas. "
        "`foreground`: areas that look like the top and bottom rows and touch the border: the ground beside a part.",
    )
    file: str | None = Field(
        None,
        description="With rule `file`: mask name, per part (`{part}_roi.png`, searched in the batch "
        "folder) or one for all (`roi.png`, searched beside the recipe).",
    )
    map: str | None = Field(None, description="Map that the rule looks at. Empty: the first map.")
    margin_px: int = Field(4, ge=0, le=512, description="Strip inside the found border that is left out too.")

    @model_validator(mode="after")
    def _check_file(self) -> Self:
        if (self.rule == "file") != (self.file is not None):
            raise ValueError("'file' is needed with rule 'file', and only there")
        if self.file is not None:
            _relative_pattern(self.file)
        return self


class TilesSpec(Section):
    """How a map is cut for the network and its scores put together again."""

    size_px: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="Side of the square tile. Empty: 128; for the methods on pretrained features (`feature-*`, "
        "`patchcore`) the shorter side that nine of ten images have at least, but 128 to 512.",
    )
    stride_px: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Step between tiles when scoring; they overlap where it is below their size. Empty: half the "
        "side of tiles of up to 128 px, three quarters of larger ones; at most fifteen sixteenths, spread evenly "
        "over the image, where `size_px` is empty too.",
    )
    blend: Literal["average", "hann"] = Field(
        "average",
        description="Weight of overlapping tiles: equal, or a Hann window that trusts the middle, "
        "which new recipes have.",
    )
    whole: bool = Field(
        False,
        description="Score each image as one tile, for methods that take any size; no seams, and the network sees "
        "all there is around a pixel.",
    )
    whole_max_mpx: Positive = Field(
        4.0, description="Largest image in megapixels that is scored whole; its memory grows with its size."
    )

    @model_validator(mode="after")
    def _check_stride(self) -> Self:
        if self.size_px is not None and self.stride_px is not None and self.stride_px > self.size_px:
            raise ValueError(
                f"stride_px {self.stride_px} must be at most size_px {self.size_px}: pixels would stay unscored"
            )
        return self


class MethodSpec(Section):
    """Which detector is trained."""

    name: str = Field(
        "auto",
        pattern=NAME_PATTERN,
        description="Method; `inspect train --help` lists them. `auto` tries some and trains the first of those "
        "that find artificial defects about as well as the best.",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the method; see docs/methods.md for each one's keys."
    )

    @field_validator("settings")
    @classmethod
    def _check_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        try:
            to_json(settings, inf_nan_mode="strings")
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"must hold plain values only ({error})") from error
        return settings


class TrainingSpec(Section):
    """How a network is trained, one for each map."""

    data: str | None = Field(
        None,
        description="Folder of good parts used when `inspect train` gets no `--data`; relative to the folder "
        "that holds the model store, or part of the sample shipped with the program.",
    )
    budget: str = Field(
        "10m", description="Time for the whole training or steps for each map: `90s`, `8m`, `1h`, `5000steps`."
    )
    batch: int = Field(
        16,
        ge=2,
        le=4096,
        description="Patches in one training step, if they have up to 128 px; fewer of larger ones (the same area in "
        "all), at least 2.",
    )
    learning_rate: Positive = Field(
        2e-3,
        description="Peak learning rate; it falls to zero along a cosine. `cae`, `vae`, `aae`, `direct` and `cnn` "
        "take half of it.",
    )
    validation_share: float = Field(
        0.2, gt=0, lt=1, description="Share of the good images kept for validation; at least one image."
    )
    patience: int = Field(20, ge=1, description="Validations without improvement after which training stops early.")
    validate_every: int = Field(50, ge=1, description="Steps between validations.")
    augment: Literal["none", "flip", "turn"] = Field(
        "none",
        description="Training patches at random as they are or mirrored (`flip`), also turned by 90 degrees "
        "(`turn`). Not for material with a preferred direction, nor for vectors such as normals, whose x and y would "
        "no longer fit.",
    )
    min_roi_share: float = Field(
        0.5, gt=0, le=1, description="Share of a training patch that must lie inside the ROI."
    )
    usual_map: bool = Field(
        True,
        description="If all good parts lie in the same position, or differ by a turn alone, learn their usual score "
        "and brightness at each position of the image, and normalise scores by it.",
    )

    @field_validator("budget")
    @classmethod
    def _check_budget(cls, value: str) -> str:
        Budget.parse(value)
        return value


class ScoringSpec(Section):
    """From residual to anomaly map and regions."""

    smooth_sigma_px: float | None = Field(
        None,
        ge=0,
        le=64,
        allow_inf_nan=False,
        description="Gaussian smoothing of the residual; 0 for none. Left open: 2, and a 64th of the tile's side "
        "where the method chooses tiles above 128 px.",
    )
    min_area_px: int = Field(
        9,
        ge=1,
        description="Regions above the limit with fewer pixels are not reported and do not fail a part.",
    )
    halo_share: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="Pixels above the limit whose score is below this share of the highest score within `halo_px` "
        "are the halo of a strong defect: not in the mask, nor in a region's area. Verdicts stay the same. 0: off.",
    )
    halo_px: int = Field(32, ge=1, le=256, description="Radius in which `halo_share` looks for the highest score.")


class ThresholdSpec(Section):
    """The limit that `inspect threshold` sets when the command line names no other rule."""

    rule: Literal["max", "quantile", "sigma"] = Field(
        "max",
        description="From the peak score of each good part. `max`: the largest one times `margin`. "
        "`quantile`: so that at most `1 - quantile` of good parts are flagged. "
        "`sigma`: mean plus `sigma` standard deviations.",
    )
    margin: float = Field(1.1, ge=1, le=100, description="Factor on the largest peak (rule `max`).")
    quantile: float = Field(
        0.95,
        gt=0,
        lt=1,
        description="Share of good parts that shall stay "
        "below the limits (rule `quantile`). 0.95 needs 19 good parts with one map, 39 with two.",
    )
    sigma: Positive = Field(4.0, description="Standard deviations above the mean (rule `sigma`).")


class Recipe(Section):
    """Everything the program needs to know about one material."""

    material: str = Field(pattern=NAME_PATTERN, description="Name; the folder of the recipe in the model store.")
    description: str = Field("", description="A sentence for people.")
    maps: dict[str, MapSpec] = Field(
        description="The registered maps of a part, by name. One network is trained for each.", min_length=1
    )
    size_px: tuple[Pixels, Pixels] | None = Field(
        None, description="Width and height that every map must have. Empty: any, but equal within a part."
    )
    pixel_pitch_um: Positive | None = Field(None, description="Size of a pixel on the part. Empty: no results in mm.")
    done_marker: str | None = Field(
        None,
        description="File that the writer puts beside a finished part, such as `{part}.done`; a part without it is "
        "left to the next run of `inspect score` (`inspect threshold` takes it). Empty: a part is taken once its "
        "files have been left alone.",
    )
    roi: RoiSpec = Field(default_factory=RoiSpec, description="Region of interest.")
    tiles: TilesSpec = Field(default_factory=TilesSpec, description="Tiling.")
    method: MethodSpec = Field(default_factory=MethodSpec, description="Detector.")
    training: TrainingSpec = Field(default_factory=TrainingSpec, description="Training.")
    scoring: ScoringSpec = Field(default_factory=ScoringSpec, description="Scoring.")
    threshold: ThresholdSpec = Field(default_factory=ThresholdSpec, description="Limits.")

    @field_validator("maps")
    @classmethod
    def _check_map_names(cls, maps: dict[str, MapSpec]) -> dict[str, MapSpec]:
        for name, spec in maps.items():
            if not re.fullmatch(NAME_PATTERN, name):
                raise ValueError(f"map name {name!r} may hold letters, digits, '_' and '-' only")
            if NOT_A_MAP.search(spec.files):
                raise ValueError(f"map {name!r}: files named *_mask and *_roi are never maps; choose another name")
        stems = {name: spec.files.rpartition(".")[0] for name, spec in maps.items()}
        for name, stem in stems.items():
            if TRUTH.search(stem) and TRUTH.sub("", stem) in stems.values():
                raise ValueError(f"map {name!r}: {maps[name].files} is named like the mask of another; rename it")
        if len({spec.files for spec in maps.values()}) < len(maps):
            raise ValueError("two maps have the same file pattern")
        return maps

    @field_validator("done_marker")
    @classmethod
    def _check_marker(cls, pattern: str | None) -> str | None:
        if pattern is not None and pattern.count(PART) != 1:
            raise ValueError("must contain {part} exactly once, such as '{part}.done'")
        return None if pattern is None else _relative_pattern(pattern)

    @model_validator(mode="after")
    def _check_text(self) -> Self:
        try:
            to_json(self.model_dump())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"a text is no valid Unicode ({error})") from error
        return self

    @model_validator(mode="after")
    def _check_roi_map(self) -> Self:
        if self.roi.map is not None and self.roi.map not in self.maps:
            raise ValueError(f"roi.map {self.roi.map!r} is none of the maps: {', '.join(self.maps)}")
        return self

    def resolved_roi(self) -> RoiSpec:
        """Return the ROI's rule with the map named that it looks at, if it looks at one."""
        map_name = None if self.roi.rule == "none" else self.roi.map or next(iter(self.maps))
        return self.roi.model_copy(update={"map": map_name})

    def digest(self) -> str:
        """Return the sha256 of the recipe's content, whatever its formatting."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
