"""Figures of lesions on maps: found against true volumes, and what is left with less data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strokect.evaluate.agreement import BlandAltman, Estimate, bland_altman, icc, pearson
from strokect.evaluate.levels import LevelPoint
from strokect.evaluate.paired import Models
from strokect.evaluate.tables import CLASSES, GROUPS, MISSING, Score, classes_of
from strokect.report.plots import add_legend, canvas, look, save, short, style
from strokect.report.text import number

_LINE = "#444444"
_PANEL_IN = (3.2, 3.2)  # inches, with its names
_DODGE = 0.36  # share of the distance of two levels that their methods fill


def write_volume_figure(path: Path, models: Models, regions: Sequence[str] = ()) -> None:
    """Lesion volumes of every method against truth, as PNG: the same scores, the same bytes.

    models : method -> scores, best of the same studies (``paired.common``). regions : classes to
    draw, all if empty. One row per method; per class the found against the true volume (line:
    both equal) and the Bland-Altman plot, difference against mean of both, with bias and limits
    of agreement, their 95 % intervals as bars at its side; in words above it, with the coefficient
    of repeatability (1.96 SD). Methods share the axes of a class.
    Raises OutputError where it cannot be written.
    """
    everyone = [s for scores in models.values() for s in scores]
    shown = list(regions) or classes_of(everyone)
    found = {s.case.group for s in everyone}
    known = [g for g in (*GROUPS, *sorted(found - {*GROUPS, MISSING}), MISSING) if g in found]
    looks = {group: look(i) for i, group in enumerate(known)}
    wide, high = _PANEL_IN
    rows, legend_lines = max(len(models), 1), 1 + (len(looks) > 1)
    figure = canvas(
        wide * 2 * len(shown) + 0.4, high * rows + 0.5 + 0.26 * legend_lines, legend_lines
    )
    axes = figure.subplots(rows, 2 * len(shown), squeeze=False)
    for column, region in enumerate(shown):
        of_class = {k: [s for s in v if s.region == region] for k, v in models.items()}
        limits = {k: bland_altman(*_volumes(v)) for k, v in of_class.items()}
        most, spread = _extent(of_class, limits)
        for row, (name, scores) in enumerate(of_class.items()):
            left, right = axes[row, 2 * column : 2 * column + 2]
            _scatter(left, scores, looks, most)
            _difference(right, scores, looks, limits[name])
            right.set(xlim=(-0.03 * most, 1.04 * most), ylim=(-spread, spread))
            if row == 0:
                _head(left, f"{region.capitalize()}: volume")
                _head(right, f"{region.capitalize()}: Bland-Altman")
    for row, name in enumerate(models):
        axes[row, 0].annotate(
            short(name), (0, 0.5), (-46, 0), "axes fraction", "offset points", rotation=90,
            va="center", ha="right", fontsize=11, fontweight="bold",
        )  # fmt: skip
    _volume_legend(figure, looks)
    save(figure, path)


def _volumes(scores: Sequence[Score]) -> Any:
    """True and found volumes, (2, N), ml."""
    return np.array([(s.true_ml, s.found_ml) for s in scores], float).reshape(-1, 2).T


def _extent(
    models: Mapping[str, Sequence[Score]], limits: Mapping[str, BlandAltman]
) -> tuple[float, float]:
    """Largest volume and largest distance from 0 in the Bland-Altman plots, over all methods."""
    most = max([1.0, *(v for s in models.values() for v in _volumes(s).ravel())])
    far = [1.0]
    for name, scores in models.items():
        true, found = _volumes(scores)
        lines = (limits[name].lower, limits[name].upper)
        ends = np.array([x for e in lines for x in (e.value, *e.ci)])
        far += [*np.abs(found - true), *np.abs(ends[np.isfinite(ends)])]
    return float(most), 1.08 * float(max(far))


def _scatter(ax: Any, scores: Sequence[Score], looks: Mapping[str, Any], most: float) -> None:
    true, found = _volumes(scores)
    ax.plot([0, most], [0, most], color="#777777", linewidth=1, zorder=2)
    _dots(ax, true, found, scores, looks)
    low, high = -0.03 * most, 1.04 * most
    ax.set(xlim=(low, high), ylim=(low, high))
    style(ax, "true, ml", "found, ml")
    agreement = icc(np.column_stack([true, found]))
    _words(ax, f"r {_interval(pearson(true, found), 2)}", f"ICC {_interval(agreement, 2)}")


def _difference(
    ax: Any, scores: Sequence[Score], looks: Mapping[str, Any], limits: BlandAltman
) -> None:
    true, found = _volumes(scores)
    ax.axhline(0, color="#BBBBBB", linewidth=0.8, zorder=1)
    lines = ((limits.bias, "-"), (limits.lower, "--"), (limits.upper, "--"))
    for place, (line, dashes) in enumerate(lines):
        if np.isfinite(line.value):
            ax.axhline(line.value, color=_LINE, linewidth=1.2, linestyle=dashes, zorder=2)
        if np.isfinite(line.ci).all():
            _bar(ax, 1.02 + 0.025 * place, line.ci)
    if limits.sd > 0:  # False for NaN
        ax.annotate(
            "", (0.97, limits.upper.value), (0.97, limits.bias.value), ax.get_yaxis_transform(),
            arrowprops={"arrowstyle": "<->", "color": _LINE, "linewidth": 0.9,
                        "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7},
        )  # fmt: skip
    _dots(ax, (true + found) / 2, found - true, scores, looks)
    style(ax, "mean of true and found, ml", "found − true, ml")
    low, high = (number(x.value) for x in (limits.lower, limits.upper))
    _words(
        ax,
        f"bias {_interval(limits.bias, 1)} ml, n = {limits.bias.n}",
        f"limits {low} to {high} ml, CR {number(limits.repeatability_sd.value)} ml",
    )


def _bar(ax: Any, x: float, ends: tuple[float, float]) -> None:
    """An interval beside the panel, where it hides nothing. x : in widths of the panel."""
    ax.plot(
        [x, x], ends, transform=ax.get_yaxis_transform(), color=_LINE, linewidth=1.6,
        marker="_", markersize=5, clip_on=False, zorder=2,
    )  # fmt: skip


def _dots(
    ax: Any, x: Any, y: Any, scores: Sequence[Score], looks: Mapping[str, Mapping[str, str]]
) -> None:
    for group, shape in looks.items():
        chosen = [i for i, s in enumerate(scores) if s.case.group == group]
        if chosen:
            ax.scatter(x[chosen], y[chosen], **shape, s=24, alpha=0.75, linewidths=0, zorder=3)


def _words(ax: Any, first: str, second: str) -> None:
    """Two small lines above a panel: inside they would hide points."""
    ax.set_title(f"{first}\n{second}", fontsize=8, loc="left", color=_LINE, linespacing=1.3)


def _head(ax: Any, words: str) -> None:
    ax.annotate(
        words, (0, 1), (0, 34), "axes fraction", "offset points", fontsize=10, fontweight="bold"
    )


def _interval(found: Estimate, digits: int) -> str:
    """E.g. "0.98 (0.95 to 0.99)"; the value alone where there is no interval."""
    low, high = (number(x, digits) for x in found.ci)
    value = number(found.value, digits)
    return value if MISSING in (low, high) else f"{value} ({low} to {high})"


def _volume_legend(figure: Any, looks: Mapping[str, Mapping[str, str]]) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=_LINE, linewidth=1.2, label="bias"),
        Line2D([], [], color=_LINE, linewidth=1.2, linestyle="--", label="limits of agreement"),
        Line2D([], [], color=_LINE, linewidth=1.6, linestyle="none", marker="|",
               markersize=11, markeredgewidth=1.6, label="95 % interval"),
        Line2D([], [], color=_LINE, linestyle="none", marker=r"$\updownarrow$", markersize=9,
               markeredgewidth=0, label="CR: coefficient of repeatability, 1.96 SD"),
    ]  # fmt: skip
    add_legend(figure, lines, 0)
    if len(looks) > 1:
        groups = [
            Line2D([], [], color=shape["color"], marker=shape["marker"], linestyle="none",
                   markersize=6, label="group not known" if group == MISSING else short(group))
            for group, shape in looks.items()
        ]  # fmt: skip
        add_legend(figure, groups, 1)


# Less and less


def write_levels_figure(path: Path, points: Sequence[LevelPoint], factor: str) -> None:
    """Dice and volume error of several methods against the levels of a factor, as PNG.

    points : as of ``levels.level_points``; levels and methods in the order in which they come
    first. factor : name of the axis ("time points"). One column per class; marks are means, bars
    their 95 % intervals over patients. The same points give the same bytes.
    Raises OutputError where it cannot be written.
    """
    regions = [r for r in CLASSES if any(p.region == r for p in points)]
    regions += sorted({p.region for p in points} - set(regions))
    levels = list(dict.fromkeys(p.level for p in points))
    methods = list(dict.fromkeys(p.method for p in points))
    wide = max(3.9, 1.0 + 0.2 * len(levels) * max(len(methods), 2))
    columns = max(len(regions), 1)
    figure = canvas(wide * columns + 2.5, 6.8)
    axes = figure.subplots(2, columns, squeeze=False, sharex=True)
    for column, region in enumerate(regions):
        of_class = [p for p in points if p.region == region]
        top, below = axes[:, column]
        for index, method in enumerate(methods):
            chosen = [p for p in of_class if p.method == method]
            places = [_place(levels.index(p.level), index, len(methods)) for p in chosen]
            _course(top, places, [p.dice for p in chosen], index, short(method))
            _course(below, places, [p.error_ml for p in chosen], index, short(method))
        n = [max((getattr(p, k).n for p in of_class), default=0) for k in ("dice", "error_ml")]
        style(top, "", "Dice" if column == 0 else "")
        style(below, factor, "absolute error, ml" if column == 0 else "")
        top.set_title(
            f"{region.capitalize()}: Dice, n = {n[0]}", fontsize=11, fontweight="bold", loc="left"
        )
        below.set_title(
            f"{region.capitalize()}: volume error, n = {n[1]}",
            fontsize=11, fontweight="bold", loc="left",
        )  # fmt: skip
        below.set_xticks(range(len(levels)), [short(x, 12) for x in levels])
        below.set_xlim(-0.5, len(levels) - 0.5)
        top.tick_params(labelbottom=True)
        top.set_ylim(-0.03, 1.03)
        highest = max(below.get_ylim()[1], 1.0)
        below.set_ylim(-0.03 * highest, 1.03 * highest)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside right upper", frameon=False, fontsize=9.5, alignment="left",
        title="Method", title_fontproperties={"weight": "bold", "size": 10},
    )  # fmt: skip
    save(figure, path, ["Bars: 95 % intervals over patients."])


def _course(
    ax: Any, places: Sequence[float], found: Sequence[Estimate], index: int, name: str
) -> None:
    """Marks with bars, joined by a line; a figure without an interval has a mark alone."""
    values = np.array([e.value for e in found], float)
    ends = np.array([e.ci for e in found], float).reshape(-1, 2).T  # (2, N)
    bars = np.maximum(np.abs(ends - values), 0)
    shape = look(index)
    ax.errorbar(
        places, values, np.where(np.isfinite(bars), bars, 0), color=shape["color"],
        marker=shape["marker"], markersize=6, linewidth=1.3, elinewidth=1.1, capsize=2.5, zorder=3,
        label=name,
    )  # fmt: skip


def _place(level: int, index: int, n_methods: int) -> float:
    return level + _DODGE * ((index + 0.5) / n_methods - 0.5)
