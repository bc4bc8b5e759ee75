"""Plots as PNG files: patch scores, loss curves, limits. The same data give the same bytes.

matplotlib is imported inside the functions (it is slow to import) and used through its object interface,
without pyplot, so that nothing outside a figure changes.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspect_cli.pictures.colour import LIMIT, SCALE_MAX
from inspect_cli.store.atomic import write_with

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI: Final = 130
_BINS: Final = 60
_A_ROW: Final = 3
_SERIES: Final = ("#3b6fb6", "#d1772e", "#4b9a6a", "#8d63b0", "#7f7f7f")  # one a map, told apart in grey too
_LIMIT_COLOUR: Final = "#b3261e"
_WIDE_RANGE: Final = 30.0  # largest over smallest score from which a linear axis hides the small ones


def save_patch_histogram(path: Path, scores: Mapping[str, ArrayLike]) -> None:
    """Write the histogram of one part's patch scores, with the limit at 1.0 and a logarithmic count.

    The axis is fixed at 0 to 2 like every colour scale, so that the plots of two parts can be compared;
    the last bin holds everything above.

    Parameters
    ----------
    path
        PNG file to write.
    scores
        Map name to the scores of its patches, in units of the limit. NaN is left out and counted.
    """
    from matplotlib.ticker import NullLocator  # noqa: PLC0415

    # Room that is known beforehand: to find out how much all labels need takes longer than to draw them.
    figure = _figure(1, layout=None)
    legend_in = 0.1 + 0.2 * len(scores)
    height_in = legend_in + max(2.0, figure.get_figheight() - legend_in)
    figure.set_figheight(height_in)
    figure.subplots_adjust(left=0.15, right=0.92, bottom=0.5 / height_in, top=1.0 - legend_in / height_in)
    axes = figure.add_subplot()
    edges = np.linspace(0.0, SCALE_MAX, _BINS + 1)
    any_known = False
    for colour, (name, values) in zip(_cycle(len(scores)), scores.items(), strict=True):
        every = np.asarray(values, dtype=np.float64).ravel()
        known = every[~np.isnan(every)]
        any_known = any_known or known.size > 0
        counts = np.histogram(np.clip(known, 0.0, SCALE_MAX), edges)[0]
        text = f"{name}: {int((known > LIMIT).sum()):,} of {known.size:,} above the limit"
        text += f", {every.size - known.size:,} without score" if known.size < every.size else ""
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.45, label=_plain(text))
        axes.stairs(counts, edges, color=colour, linewidth=1.0)
    axes.axvline(LIMIT, color=_LIMIT_COLOUR, linewidth=1.4)
    axes.set_xlim(0.0, SCALE_MAX)
    axes.set_xticks([0.0, 0.5, 1.0, 1.5, 2.0], ["0", "0.5", "1 = limit", "1.5", "2 or more"])
    if any_known:
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(bottom=0.6)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_locator(NullLocator())  # its ticks take a third of the time
    if scores:
        axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2)
    _finish(axes, "patch score", "patches", None if any_known else "no patch scores")
    _save(path, figure)


def save_labelled_patches(
    path: Path, counts: Mapping[str, tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.int64]]]
) -> None:
    """Write, one panel a map, how the scores of good and of defective patches lie to the limit (IND Fig. 6).

    Axes are those of :func:`save_patch_histogram`.

    Parameters
    ----------
    path
        PNG file to write.
    counts
        Title to scores (n,) in units of the limit, and how many good and how many defective patches have each.
    """
    figure = _figure(max(1, len(counts)))
    panels = figure.subplots(max(1, len(counts)), 1, squeeze=False)[:, 0]
    edges = np.linspace(0.0, SCALE_MAX, _BINS + 1)
    for axes, (name, (scores, good, defective)) in zip(panels, counts.items(), strict=False):
        for colour, kind, number in ((_SERIES[0], "good", good), (_SERIES[1], "defective", defective)):
            heights = np.histogram(np.clip(scores, 0.0, SCALE_MAX), edges, weights=number)[0]
            above = int(number[scores > LIMIT].sum())
            text = f"{kind}: {above:,} of {int(number.sum()):,} above the limit"
            axes.stairs(heights, edges, fill=True, color=colour, alpha=0.5, label=text)
            axes.stairs(heights, edges, color=colour, linewidth=1.0)
        axes.axvline(LIMIT, color=_LIMIT_COLOUR, linewidth=1.4)
        axes.set_xlim(0.0, SCALE_MAX)
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(bottom=0.6)
        axes.set_title(_plain(name))
        _finish(axes, "patch score (1 = limit; the last bin: 2 or more)", "patches", None)
    _save(path, figure)


def save_loss_curve(path: Path, history: Sequence[Mapping[str, Any]], title: str) -> None:
    """Write the training and validation loss over the steps.

    Parameters
    ----------
    path
        PNG file to write.
    history
        Records with ``step``, ``train_loss`` and ``val_loss``; a loss that is absent, None or not finite
        is left out.
    title
        Title of the plot.
    """
    figure = _figure(1)
    axes = figure.add_subplot()
    curves = {name: _curve(history, key) for name, key in (("training", "train_loss"), ("validation", "val_loss"))}
    drawn = {name: curve for name, curve in curves.items() if curve.size}
    for colour, (name, curve) in zip(_cycle(len(drawn)), drawn.items(), strict=True):
        axes.plot(curve[:, 0], curve[:, 1], color=colour, marker="." if len(curve) < 60 else "", label=name)
    if drawn and all((curve[:, 1] > 0.0).all() for curve in drawn.values()):
        axes.set_yscale("log")
    axes.set_title(_plain(title))
    _finish(axes, "step", "loss", None if drawn else "no losses recorded")
    _save(path, figure)


def save_limit_histogram(
    path: Path,
    good: Mapping[str, ArrayLike],
    limits: Mapping[str, float],
    defect: Mapping[str, ArrayLike] | None,
) -> None:
    """Write, one panel a map, where the limit lies among the scores of good and defective samples.

    Parameters
    ----------
    path
        PNG file to write.
    good
        Map name to the raw scores of good samples.
    limits
        Map name to its limit, in the same raw units.
    defect
        Map name to the raw scores of defective samples, where there are any.
    """
    figure = _figure(max(1, len(good)))
    panels = figure.subplots(max(1, len(good)), 1, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, good.items(), strict=False):
        _limit_panel(axes, _finite(values), _finite((defect or {}).get(name, ())), limits.get(name))
        axes.set_title(_plain(name))
        _finish(axes, "raw score", "samples", None)
    if not good:
        _finish(panels[0], "raw score", "samples", "no scores of good samples")
    _save(path, figure)


def save_patches(path: Path, patches: Sequence[tuple[NDArray[Any], str, tuple[int, int]]]) -> None:
    """Write patches in grey side by side, three a row, each stretched to its own range, with a place in each.

    Parameters
    ----------
    path
        PNG file to write.
    patches
        Stored pixels (side, side) or (side, side, channels), of which the mean is shown, the caption, and the place
        (x, y) that is marked.
    """
    rows = -(-len(patches) // _A_ROW)
    figure = _figure(rows)
    figure.set_size_inches(5.6, 2.15 * rows)
    for number, (pixels, caption, (x, y)) in enumerate(patches, 1):
        axes = figure.add_subplot(rows, _A_ROW, number)
        grey = pixels.astype(np.float64)
        axes.imshow(grey if grey.ndim == 2 else grey.mean(axis=2), cmap="gray")
        axes.plot(x, y, "o", markersize=14, markerfacecolor="none", markeredgecolor=_LIMIT_COLOUR, clip_on=False)
        axes.set_title(_plain(caption), fontsize=7)
        axes.set_axis_off()
    _save(path, figure)


def save_bars(path: Path, values: Mapping[str, float], x_name: str) -> None:
    """Write one bar a name, the first on top, with its value at the end."""
    figure = _figure(1)
    figure.set_size_inches(7.2, 1.0 + 0.32 * len(values))
    axes = figure.add_subplot()
    bars = axes.barh([_plain(name) for name in values], list(values.values()), color=_SERIES[0])
    axes.bar_label(bars, fmt=" %.2f", fontsize=9)
    axes.invert_yaxis()
    _finish(axes, x_name, "", None)
    axes.grid(visible=False, axis="y")
    _save(path, figure)


def _limit_panel(axes: Axes, good: NDArray[np.float64], defect: NDArray[np.float64], limit: float | None) -> None:
    lines = _finite(() if limit is None else limit)
    edges, logarithmic = _raw_edges(np.concatenate([good, defect, lines]))
    for colour, name, values in ((_SERIES[0], "good", good), (_SERIES[1], "defective", defect)):
        if values.size:
            counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.55, label=f"{name}: {values.size:,}")
    for value in lines:
        axes.axvline(value, color=_LIMIT_COLOUR, linewidth=1.4, label=f"limit {value:.4g}")
    if logarithmic:
        axes.set_xscale("log")


def _raw_edges(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Return bin edges over all values, evenly spaced or, for a wide positive range, in logarithm."""
    positive = values[values > 0.0]
    if positive.size and positive.max() > _WIDE_RANGE * positive.min():
        return np.geomspace(positive.min(), positive.max(), _BINS + 1), True
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    low = min(low, 0.0)
    return np.linspace(low, high + 0.05 * (high - low) if high > low else low + 1.0, _BINS + 1), False


def _curve(history: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.float64]:
    """Return (n, 2) step and loss where the loss is a finite number."""
    points = [(record["step"], record[key]) for record in history if record.get(key) is not None]
    return np.array([point for point in points if math.isfinite(point[1])], dtype=np.float64).reshape(-1, 2)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]


def _cycle(count: int) -> list[str]:
    return [_SERIES[index % len(_SERIES)] for index in range(count)]


def _plain(text: str) -> str:
    """Return the text so that matplotlib shows it as it stands, without its mathematical notation."""
    return text.replace("\\", "/").replace("$", r"\$")


@functools.cache
def load_early() -> None:
    """Begin to load what plots are drawn with, beside other work: it takes half a second and 50 MB.

    So the first part of a run does not wait for it at its end, and takes as much memory as the others.
    """
    threading.Thread(target=_figure, args=(1,), name="load-plots").start()


def _figure(panels: int, layout: Literal["constrained"] | None = "constrained") -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow, needed only here
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(5.6, 0.4 + 2.5 * panels), dpi=_DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _finish(axes: Axes, x_name: str, y_name: str, note: str | None) -> None:
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    if note:
        axes.text(0.5, 0.5, note, transform=axes.transAxes, ha="center", color="#666666")
    if axes.get_legend() is None and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _save(path: Path, figure: Figure) -> None:
    write_with(path, lambda target: figure.savefig(target, format="png", metadata={"Software": None}))
