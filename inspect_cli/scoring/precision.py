"""Scores at the precision they are stored with: 11 bits of mantissa, 19 bits in all.

A score needs no more than four digits (half a step is at most 1/4096 of the value). With the lower 12 bits
of the float32 word at zero, the upper 20 are the sign, which is 0, and a 19-bit code that grows with the
score. Files compress to a fraction, and a histogram with one bin a code holds every score exactly, so that
metrics over any number of pixels are exact in constant memory.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

DROPPED_BITS: Final = 12
CODE_COUNT: Final = 2 ** (31 - DROPPED_BITS)
#: Code of infinity; it and everything above (NaN) is no finite score.
FIRST_NON_FINITE_CODE: Final = 0x7F800000 >> DROPPED_BITS

_KEPT_MASK: Final = np.uint32((0xFFFFFFFF >> DROPPED_BITS) << DROPPED_BITS)
_BELOW_HALF: Final = np.uint32((1 << (DROPPED_BITS - 1)) - 1)
_SIGN_OFF: Final = np.uint32(0x7FFFFFFF)


def round_scores(scores: NDArray[Any]) -> NDArray[np.float32]:
    """Round to the nearest score with 11 mantissa bits, ties to the even one.

    Parameters
    ----------
    scores
        Any shape; values are first taken to float32. NaN stays NaN, infinity stays infinity, the sign stays.

    Returns
    -------
    A new array of the same shape; the lower 12 bits of every word are zero.
    """
    values = np.asarray(scores, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = (bits >> np.uint32(DROPPED_BITS)) & np.uint32(1)
    rounded += _BELOW_HALF
    rounded += bits
    rounded &= _KEPT_MASK
    result = rounded.view(np.float32)
    np.copyto(result, np.float32(np.nan), where=np.isnan(values))
    return result


def score_code(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Give the bin of every rounded score: 0..2**19 - 1, in the order of the scores.

    Parameters
    ----------
    scores
        Any shape, non-negative float32 as ``round_scores`` returns them. Infinity and NaN get codes from
        ``FIRST_NON_FINITE_CODE`` on.

    Raises
    ------
    ValueError
        If a score is negative: codes would no longer be in order.
    """
    values = np.asarray(scores, dtype=np.float32)
    if bool((values < 0).any()):
        raise ValueError("a score is negative; scores are non-negative by definition")
    codes = values.view(np.uint32) & _SIGN_OFF
    codes >>= np.uint32(DROPPED_BITS)
    return codes


def code_value(codes: ArrayLike) -> NDArray[np.float32]:
    """Give the score of every code, the inverse of ``score_code``; same shape."""
    words: NDArray[np.uint32] = np.asarray(codes, dtype=np.uint32) << np.uint32(DROPPED_BITS)
    return words.view(np.float32)
