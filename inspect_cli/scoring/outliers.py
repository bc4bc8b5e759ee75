"""Which of some parts lie far above the others, as defective ones do among good ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, median_abs_deviation, norm

#: With fewer parts their spread cannot be estimated ...
LEAST_PARTS: Final = 8
#: ... so that a part stands out at this factor of the median, and with fewer than ``_FEWEST`` none does.
_MUCH_WORSE: Final = 4.0
_FEWEST: Final = 3
#: A part stands out when its score lies so many robust standard deviations (of the logarithm) above the median; of
#: few parts the deviation is known badly, so it must be more by ``_FAR_OF_FEW`` over their number ...
FAR: Final = 2.5
_FAR_OF_FEW: Final = 16
#: ... and it is above the median by this factor.
WORSE: Final = 2.0
#: Least robust standard deviation: parts that are all alike must not make a harmless one stand out.
_LEAST_SPREAD: Final = 0.06
#: With so many parts, several that lie above together are found although each alone would not be: of those named,
#: this share may be good ones (Benjamini and Hochberg 1995, for a normal distribution of the logarithm).
_MANY: Final = 40
_FALSE_SHARE: Final = 0.25


class Outliers(NamedTuple):
    """Scores over their median, and whether each lies far above the others, both (n,)."""

    times: NDArray[np.float64]
    far: NDArray[np.bool_]


def outliers(scores: Sequence[float]) -> Outliers:
    """Return how far each of the scores (at least one, at least 0 each) lies above the others."""
    values = np.log(np.maximum(scores, np.finfo(float).tiny))
    middle = float(np.median(values))
    spread = max(float(median_abs_deviation(values, scale="normal")), _LEAST_SPREAD)
    times = np.exp(values - middle)
    if len(values) < LEAST_PARTS:
        return Outliers(times, (times >= _MUCH_WORSE) & (len(values) >= _FEWEST))
    above = (values - middle) / spread
    far = above >= FAR + _FAR_OF_FEW / len(values)
    if len(values) >= _MANY:
        far |= false_discovery_control(norm.sf(above)) <= _FALSE_SHARE
    return Outliers(times, far & (times >= WORSE))
