"""How numbers, sizes and times are written for people; an absent or not finite number is a dash."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from inspect_cli.pictures.colour import LIMIT
from inspect_cli.report.run_data import number

ABSENT: Final = "–"


def plain(value: Any) -> str:
    """Write a number with three significant digits or as a whole number with separators.

    >>> plain(4845), plain(0.12345), plain(1234.5), plain(999.7), plain(None)
    ('4,845', '0.123', '1,234', '1,000', '–')
    """
    known = number(value)
    if known is None:
        return ABSENT
    return f"{known:,.0f}" if known == int(known) or abs(known) >= 999.5 else f"{known:.3g}"


def score(value: Any) -> str:
    """Write a score with two decimals, or as many as show on which side of the limit it is.

    >>> score(3.2), score(1.0), score(1.0004)
    ('3.20', '1.00', '1.0004')
    """
    known = number(value)
    if known is None:
        return ABSENT
    digits = next((d for d in range(2, 8) if (float(f"{known:.{d}f}") == LIMIT) == (known == LIMIT)), 8)
    return f"{known:.{digits}f}"


def rate(value: Any) -> str:
    """Write a rate between 0 and 1 with three decimals."""
    known = number(value)
    return ABSENT if known is None else f"{known:.3f}"


def tenths(value: Any) -> str:
    """Write a number with one decimal."""
    known = number(value)
    return ABSENT if known is None else f"{known:,.1f}"


def percent(value: Any) -> str:
    """Write a share as percent.

    >>> percent(0.25), percent(0.001)
    ('25 %', '0.1 %')
    """
    known = number(value)
    return ABSENT if known is None else f"{100.0 * known:.3g} %"


def millimetres(value: Any) -> str:
    """Write a length in mm or an area in mm² with three decimals, or two digits if it is tiny.

    >>> millimetres(12.3456), millimetres(0.00025), millimetres(0.0)
    ('12.346', '0.00025', '0')
    """
    known = number(value)
    if known is None:
        return ABSENT
    return f"{known:,.3f}" if abs(known) >= 0.01 else f"{known:.2g}"


def duration(value: Any) -> str:
    """Write a time span.

    >>> duration(0.1234), duration(75.2), duration(4000)
    ('0.12 s', '1 min 15 s', '1 h 6 min')
    """
    known = number(value)
    if known is None:
        return ABSENT
    if known < 60.0:
        return f"{known:.2f} s" if known < 10.0 else f"{known:.0f} s"
    minutes, seconds = divmod(round(known), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def file_size(value: Any) -> str:
    """Write a file size in decimal units.

    >>> file_size(512), file_size(20_200_000)
    ('512 B', '20.2 MB')
    """
    size = number(value) or 0.0
    for unit in ("B", "kB", "MB"):
        if size < 1000.0:
            return f"{size:.3g} {unit}"
        size /= 1000.0
    return f"{size:,.1f} GB"


def moment(value: Any) -> str:
    """Write an ISO time to the minute; anything else as it is.

    >>> moment("2025-11-22T03:10:59+00:00"), moment("2025-11-22T03:10:59Z")
    ('2025-11-22 03:10 UTC', '2025-11-22 03:10 UTC')
    """
    text = str(value or ABSENT)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".strip()


#: Filters of the page's template, by name.
FILTERS: Final[dict[str, Callable[[Any], str]]] = {
    function.__name__: function
    for function in (plain, score, rate, tenths, percent, millimetres, duration, file_size, moment)
}
