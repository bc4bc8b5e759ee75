"""Time as it is written into records."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta


def utc_now() -> str:
    """Return the time in UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def utc_after(others: Iterable[str]) -> str:
    """Return the time in UTC, or a second after the latest of ``others`` if that is later: clocks are set back."""
    latest = max((datetime.fromisoformat(text) for text in others), default=datetime.min.replace(tzinfo=UTC))
    return max(datetime.now(UTC), latest + timedelta(seconds=1)).isoformat(timespec="seconds")
