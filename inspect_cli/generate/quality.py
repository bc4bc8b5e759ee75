"""Whether generated patches can stand for real ones: simple statistics, diversity, copies."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

#: Largest deviations from the held-out patches that need no warning; twice those of training patches, if larger.
MOST_MEAN_SHIFT: Final = 0.5
MOST_FACTOR: Final = 2.0
MOST_DECIBEL: Final = 6.0
#: Distances between generated patches over those between real ones below which the generator has collapsed: of all
#: pairs (it yields one picture) and of each patch to its nearest one (it yields a few).
LEAST_PAIRWISE: Final = 0.5
LEAST_NEAREST: Final = 0.25
#: Distance to the nearest training patch, over that of held-out patches, below which generated ones are copies.
LEAST_NOVELTY: Final = 0.5

_TINY: Final = 1e-12

Patches = NDArray[np.float32]


@dataclass(frozen=True)
class Deviation:
    """How far one set of patches is from another in simple statistics.

    ``mean_shift`` is the largest shift of a channel's mean, in standard deviations of its pixels. The others are
    ratios, 1 if equal: of the standard deviation inside a patch, of the energy of the gradient, and of the power in
    each octave of spatial frequency, coarse to fine.
    """

    mean_shift: float
    spread: float
    gradient: float
    octaves: tuple[float, ...]

    @property
    def worst_octave(self) -> int:
        """Which octave's power deviates most."""
        return max(range(len(self.octaves)), key=lambda index: _decibel(self.octaves[index]))

    @property
    def worst_octave_db(self) -> float:
        """How much its power deviates, decibel."""
        return _decibel(self.octaves[self.worst_octave])


@dataclass(frozen=True)
class Comparison:
    """What the generated patches of one map are worth beside held-out real ones.

    Distances are root mean square differences of pixels; each is given as a ratio to that of real patches.

    Parameters
    ----------
    generated, training
        Deviation of the generated and of the training patches from the held-out ones; the second is what chance
        and the difference between parts make.
    pairwise
        Mean distance between two generated patches, over that between two held-out ones; 0 is one picture.
    nearest
        Median distance of a generated patch to the nearest other one, over that of held-out ones; 0 is few pictures.
    novelty
        Median distance of a generated patch to the nearest training patch, over that of held-out ones; 0 is copies.
        Only patches of the same place are found as copies, not shifted ones.
    """

    generated: Deviation
    training: Deviation
    pairwise: float
    nearest: float
    novelty: float

    @property
    def collapsed(self) -> bool:
        """Whether the generator yields one picture, or few."""
        return self.pairwise < LEAST_PAIRWISE or self.nearest < LEAST_NEAREST

    def warnings(self, name: str) -> list[str]:
        """Return what is wrong with the patches of map ``name`` in plain words, empty if nothing is."""
        if self.collapsed:
            alike = f"its patches differ from each other {self.pairwise:.0%}, and from the nearest {self.nearest:.0%}"
            return [
                f"map {name}: the generator collapsed: {alike}, as much as real ones; do not train with them. "
                "Give it a longer --budget, more parts, or another --seed"
            ]
        found = [f"map {name}: {text}" for text in _faults(self.generated, self.training)]
        if self.novelty < LEAST_NOVELTY:
            found.append(
                f"map {name}: the patches are copies of training patches (only {self.novelty:.0%} as far from them "
                "as other real ones) and add nothing new; generate from more parts"
            )
        return found

    def record(self) -> dict[str, Any]:
        """Return the numbers as plain values, rounded to 4 digits."""
        rounded = {key: _rounded(value) for key, value in asdict(self).items()}
        return rounded | {"collapsed": self.collapsed}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.4g}")


def _faults(found: Deviation, chance: Deviation) -> list[str]:
    texts = []
    if found.mean_shift > max(MOST_MEAN_SHIFT, 2 * chance.mean_shift):
        texts.append(f"the mean is off by {found.mean_shift:.2g} standard deviations of the real pixels")
    for what, ratio, usual in (
        ("contrast", found.spread, chance.spread),
        ("energy of the gradient", found.gradient, chance.gradient),
    ):
        if _decibel(ratio) > max(_decibel(MOST_FACTOR), 2 * _decibel(usual)):
            texts.append(f"the {what} is {ratio:.2g} times that of real patches")
    if found.worst_octave_db > max(MOST_DECIBEL, 2 * chance.worst_octave_db):
        finest_px = 2 ** (len(found.octaves) - found.worst_octave - 1)
        texts.append(
            f"structure of {finest_px} to {2 * finest_px} px has {found.octaves[found.worst_octave]:.2g} times the "
            "power of real patches"
        )
    return texts


def _decibel(ratio: float) -> float:
    return abs(10 * math.log10(max(ratio, _TINY)))


def compare(generated: Patches, held_out: Patches, training: Patches) -> Comparison:
    """Compare the generated patches of one map with real ones; each set is (n, channels, side, side), n above 1."""
    return Comparison(
        generated=deviation(generated, held_out),
        training=deviation(training, held_out),
        pairwise=_ratio(mean_distance(generated), mean_distance(held_out)),
        nearest=_ratio(nearest_distance(generated), nearest_distance(held_out)),
        novelty=_ratio(nearest_distance(generated, training), nearest_distance(held_out, training)),
    )


def deviation(patches: Patches, real: Patches) -> Deviation:
    """Return how far ``patches`` are from ``real``; both are (n, channels, side, side)."""
    axes = (0, 2, 3)
    spread = real.std(axis=axes)
    shift = np.abs(patches.mean(axis=axes) - real.mean(axis=axes)) / np.maximum(spread, _TINY)
    power = zip(octave_power(patches), octave_power(real), strict=True)
    return Deviation(
        mean_shift=float(shift.max()),
        spread=_ratio(_spread(patches), _spread(real)),
        gradient=_ratio(gradient_energy(patches), gradient_energy(real)),
        octaves=tuple(_ratio(mine, theirs) for mine, theirs in power),
    )


def _spread(patches: Patches) -> float:
    """Return the mean standard deviation inside a patch."""
    return float(patches.std(axis=(2, 3), dtype=np.float64).mean())


def gradient_energy(patches: Patches) -> float:
    """Return the mean squared difference of neighbouring pixels, down and across."""
    down, across = np.diff(patches, axis=2), np.diff(patches, axis=3)
    return float(np.square(down, dtype=np.float64).mean() + np.square(across, dtype=np.float64).mean())


def octave_power(patches: Patches) -> NDArray[np.float64]:
    """Return the mean power in each octave of spatial frequency: 1, 2 to 3, 4 to 7, ... periods a side.

    The radial power spectrum of the patches, without their mean and under a Hann window.
    """
    side = patches.shape[-1]
    window = np.hanning(side + 2)[1:-1]
    level = patches - patches.mean(axis=(2, 3), keepdims=True)
    spectrum = np.abs(fft.rfft2(level * np.outer(window, window).astype(np.float32), workers=1)) ** 2
    power = spectrum.mean(axis=(0, 1), dtype=np.float64)
    radius = np.hypot(fft.fftfreq(side, 1 / side)[:, None], fft.rfftfreq(side, 1 / side)[None, :])
    octave = np.floor(np.log2(np.maximum(radius, 0.5))).astype(int)
    count = int(math.log2(side))  # the last one reaches the corners of the spectrum
    return np.array([power[octave == index].mean() for index in range(count)])


def mean_distance(patches: Patches) -> float:
    """Return the mean distance of two patches, root mean square of pixels."""
    count = len(patches)
    return float(_distances(patches, patches).fill_diagonal_(0.0).sum()) / (count * (count - 1))


def nearest_distance(patches: Patches, others: Patches | None = None) -> float:
    """Return the median distance of a patch to the nearest of ``others``, or to the nearest other one of its own."""
    if others is None:
        distances = _distances(patches, patches).fill_diagonal_(math.inf)
    else:
        distances = _distances(patches, others)
    return float(distances.min(dim=1).values.median())


def _distances(patches: Patches, others: Patches) -> torch.Tensor:
    """Return the distance of each patch to each of ``others``; double precision keeps the small ones."""
    first, second = (torch.from_numpy(np.asarray(some, np.float64)).flatten(1) for some in (patches, others))
    return torch.cdist(first, second, compute_mode="use_mm_for_euclid_dist") / math.sqrt(patches[0].size)


def _ratio(value: float, reference: float) -> float:
    """Return the ratio; two zeros are equal, and zero is not divided by."""
    return (value + _TINY) / (reference + _TINY)
