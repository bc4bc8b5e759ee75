"""What a model bundle says of itself: ``manifest.json``, validated when it is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_serializer,
    model_validator,
)

from inspect_cli.images.values import Preprocess, ValueRange
from inspect_cli.recipe.schema import RoiSpec
from inspect_cli.store.digest import json_sha256
from inspect_cli.store.timestamps import utc_now
from inspect_cli.tiles.tiling import Tiling

FORMAT: Final = 1
#: A limit of zero would flag everything; scores are float32, so a limit must leave room to divide by it.
LEAST_LIMIT: Final = 1e-12
#: Below this share of explained variance a reconstruction shows little but the local mean.
COLLAPSED: Final = 0.3
#: Below this area under the ROC curve artificial defects are hardly told from good material ...
USELESS: Final = 0.6
#: ... and below this one if the reconstruction collapsed as well.
DOUBTFUL: Final = 0.75
#: Why no part passes, where that holds for every map.
DOUBT: Final = "the model hardly tells defects from good material"

_WEIGHTS: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$"
_SHA256: Final = r"^[0-9a-f]{64}$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MapLimit(_Strict):
    """Limits of one map in raw residual units: of the smoothed anomaly map, and of a patch's mean."""

    pixel: float = Field(ge=LEAST_LIMIT, allow_inf_nan=False)
    patch: float = Field(ge=LEAST_LIMIT, allow_inf_nan=False)


def scored_at(stride_px: int, precision: str) -> str:
    """Return in words what else than the model decides scores, a little."""
    return f"stride {stride_px} px, precision {precision}"


class Calibration(_Strict):
    """Where the limits come from and what they promise; how scores were put together when they were set."""

    limits: dict[str, MapLimit]
    rule: Literal["max", "quantile", "sigma", "manual", "iou", "f1"]
    provisional: bool
    origin: str
    parts: int = Field(ge=0)
    smooth_sigma_px: float
    blend: str
    stride_px: int = Field(ge=1)
    precision: str = "f32"
    false_alarm_rate: float | None = Field(None, ge=0, le=1)
    created_utc: str

    @classmethod
    def of_scores(
        cls,
        tiling: Tiling,
        limits: Mapping[str, MapLimit],
        rule: str,
        origin: str,
        parts: int,
        false_alarm_rate: float | None = None,
        provisional: bool = False,
        precision: str = "f32",
    ) -> Self:
        """Return limits of today, for scores that are put together as ``tiling`` says."""
        return cls.model_validate(
            {
                "limits": limits,
                "rule": rule,
                "provisional": provisional,
                "origin": origin,
                "parts": parts,
                "smooth_sigma_px": tiling.smooth_sigma_px,
                "blend": tiling.joining,
                "stride_px": tiling.stride_px,
                "precision": precision,
                "false_alarm_rate": false_alarm_rate,
                "created_utc": utc_now(),
            }
        )

    def fits(self, tiling: Tiling) -> bool:
        """Whether the limits hold for scores that are put together as ``tiling`` says, whatever its stride."""
        return (self.smooth_sigma_px, self.blend) == (tiling.smooth_sigma_px, tiling.joining)

    @property
    def scored_at(self) -> str:
        """At which stride and precision the scores were that the limits are for."""
        return scored_at(self.stride_px, self.precision)

    def without_promise(self, why: str) -> Self:
        """Return the limits without a promised rate, and with the reason in their origin."""
        return self.model_copy(update={"false_alarm_rate": None, "origin": f"{self.origin}, {why}"})

    @property
    def promise(self) -> str:
        """What the limits promise, in words."""
        if self.false_alarm_rate is not None:
            return f"at most {self.false_alarm_rate:.1%} of good parts are flagged"
        few = self.rule == "max" and not self.provisional
        return "too few good parts to promise a false-alarm rate" if few else "no false-alarm rate is promised"


class Acquisition(_Strict):
    """Range of the training images' mean and spread inside the ROI, in the network's unit range."""

    mean_low: float
    mean_high: float
    spread_low: float
    spread_high: float


class RoiShare(_Strict):
    """Range of the share of the image that the ROI of the training images covers, with room, 0 to 1."""

    low: float
    high: float


class Usual(_Strict):
    """Names the file of what is usual at each place of the image: how high good parts score, how bright they are.

    ``alike`` is the rank correlation of scores over places, on average between two of ``parts`` parts.
    ``brightness_weight`` is what a squared standard deviation of brightness adds to a score; None in models that
    older versions wrote.
    """

    cells: str = Field(pattern=_WEIGHTS)
    sha256: str = Field(pattern=_SHA256)
    cell_px: int = Field(ge=1)
    height_px: int = Field(ge=1)
    width_px: int = Field(ge=1)
    alike: float = Field(ge=-1, le=1)
    parts: int = Field(ge=1)
    brightness_weight: float | None = Field(None, ge=0)
    #: Whether parts lie at any angle.
    turned: bool = False
    #: By how much the images that were learnt from differ in size; the largest is given.
    slack_px: int = Field(0, ge=0)

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if self.brightness_weight is None:
            content.pop("brightness_weight", None)
        for name in ("slack_px", "turned"):
            if not content.get(name):
                content.pop(name, None)  # the digest of a model stays what it was
        return content


def _in_a_tuple(value: object) -> object:
    return (value,) if isinstance(value, Mapping) else value


class TrainedMap(_Strict):
    """One map's network and how its pixels reach it."""

    channels: int = Field(ge=1)
    weights: str = Field(pattern=_WEIGHTS)
    sha256: str = Field(pattern=_SHA256)
    low: float
    high: float
    fill: tuple[float, ...]
    dtype: str
    shown_low: tuple[float, ...]
    shown_high: tuple[float, ...]
    #: One a channel; models that older versions wrote have one for all channels together.
    acquisition: Annotated[tuple[Acquisition, ...], BeforeValidator(_in_a_tuple), Field(min_length=1)]
    steps: int
    seconds: float
    validation_loss: float
    explained_variance: float | None
    stopped_early: bool = False
    #: Only where good parts always lie alike.
    usual: Usual | None = None

    @property
    def preprocess(self) -> Preprocess:
        """How this map's pixels become the network's input."""
        return Preprocess(ValueRange(self.low, self.high), self.fill, self.dtype)

    @property
    def usual_values(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and spread in the middle of what is accepted, one a channel or one for all, in unit range."""
        ends = np.array([(a.mean_low, a.mean_high, a.spread_low, a.spread_high) for a in self.acquisition])
        return ends[:, :2].mean(axis=1), ends[:, 2:].mean(axis=1)

    @field_serializer("acquisition")
    def _as_before(self, found: tuple[Acquisition, ...]) -> Acquisition | tuple[Acquisition, ...]:
        return found[0] if len(found) == 1 else found  # the digest of a model stays what it was

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if self.usual is None:
            content.pop("usual", None)  # the digest of a model stays what it was
        return content

    @model_validator(mode="after")
    def _one_a_channel(self) -> Self:
        if len(self.acquisition) not in (1, self.channels):
            raise ValueError(f"acquisition has {len(self.acquisition)} entries for {self.channels} channels")
        return self


class TrainingFile(_Strict):
    """One file the model has seen."""

    part: str
    map: str
    sha256: str
    use: Literal["train", "validation", "extra", "defect"]


class Trial(_Strict):
    """How a method did in the trial that chose one: area under the ROC curve of pixels with artificial defects.

    ``pixel_auroc`` is the mean over kinds and maps, None where the method could not be tried; ``note`` says why.
    """

    method: str
    pixel_auroc: float | None
    by_kind: dict[str, float] = Field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    note: str = ""
    #: Whether a model that does so on all maps is one that no part passes by.
    doubtful: bool = False


def says_little(pixel_auroc: float, explained: float | None) -> bool:
    """Whether a map's scores say little of defects: by artificial ones, and what the reconstruction explains."""
    collapsed = explained is not None and explained < COLLAPSED
    return pixel_auroc < (DOUBTFUL if collapsed else USELESS)


class Suspect(_Strict):
    """A place of a good part that does not look like the others; how much worse it is than what is usual."""

    part: str
    map: str
    x_px: int
    y_px: int
    times_usual: float
    left_out: bool


class Manifest(_Strict):
    """A trained model of one material."""

    format: Literal[1] = FORMAT
    tool: str
    created_utc: str
    material: str
    method: str
    settings: dict[str, Any]
    tile_px: int
    seed: int
    recipe_sha256: str
    maps: dict[str, TrainedMap]
    training_set: list[TrainingFile]
    warnings: list[str] = Field(default_factory=list)
    calibration: Calibration | None = None
    trials: list[Trial] = Field(default_factory=list)
    #: What the trained network of each map makes of artificial defects.
    checks: dict[str, Trial] = Field(default_factory=dict)
    suspects: list[Suspect] = Field(default_factory=list)
    #: ROI rule of the training, with its map. None, like the next two, in models that older versions wrote.
    roi: RoiSpec | None = None
    roi_share: RoiShare | None = None
    #: Least width and least height of the training images.
    least_size_px: tuple[int, int] | None = None

    @property
    def cautions(self) -> list[str]:
        """What there is to know about the model: the warnings of its training, and whether it is to be doubted."""
        return self.warnings + ([] if self.doubt is None else [self.doubt])

    def unseen(self, known: Iterable[str]) -> list[str]:
        """Return which of the maps that a recipe knows the model does not look at."""
        return [name for name in known if name not in self.maps]

    @property
    def doubt(self) -> str | None:
        """Why a part must not pass on this model's word: no map of it says anything of defects; None if one does."""
        if not self.maps or not all(self._says_little(name) for name in self.maps):
            return None
        told = ", ".join(f"{name} {self.checks[name].pixel_auroc:.2f}" for name in self.maps)
        advice = "train longer or on more parts" if self.trials else "train longer or with --method auto"
        return f"{DOUBT} (pixel AUROC of artificial ones: {told}; .5 is chance), so no part passes: {advice}"

    def _says_little(self, name: str) -> bool:
        check = self.checks.get(name)
        if check is None or check.pixel_auroc is None:
            return False
        return says_little(check.pixel_auroc, self.maps[name].explained_variance)

    def digest(self) -> str:
        """Return the sha256 of what decides a raw score: networks and preprocessing, not the limits."""
        return json_sha256(json.loads(self.model_dump_json(include={"method", "settings", "tile_px", "maps"})))
