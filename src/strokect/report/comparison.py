"""The figure and the page of several models compared on the same patients."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import strokect
from strokect.core.types import FloatArray
from strokect.evaluate.tables import ALL, Score, lesion_classes
from strokect.io.outputs import atomic_file
from strokect.report import score_tables
from strokect.report.pages import constants, environment, write_page
from strokect.report.plots import look, short, style

_BAND = 0.8  # share of the width of a group that its boxes fill
_LEAST_BOX = 4  # studies; fewer are shown as points alone

Models = Mapping[str, Sequence[Score]]


def write_comparison_page(path: Path, content: Mapping[str, Any], figure: Path) -> None:
    """Write the page. content : of comparison.json. figure : PNG, shown in the page.

    Raises OutputError where it cannot be written.
    """
    image = base64.b64encode(figure.read_bytes()).decode("ascii")
    head, rows = score_tables.comparison_rows(content)
    paired_head, paired = score_tables.paired_rows(content)
    page = (
        environment()
        .get_template("comparison.html")
        .render(
            constants(),
            content=content,
            counts=score_tables.counts_text(content),
            note=score_tables.TABLE_NOTE,
            paired_note=score_tables.TEST_NOTE,
            head=head,
            rows=rows,
            paired_head=paired_head,
            paired=paired,
            figure=f"data:image/png;base64,{image}",
        )
    )
    write_page(page.lstrip() + "\n", path)


def write_figure(path: Path, models: Models, content: Mapping[str, Any]) -> None:
    """Write the figure as PNG: the same scores, the same bytes.

    models : scores of the studies common to all. content : of comparison.json.
    Above, Dice of every patient by model and group, per class, and the volume found where nothing
    is there; below, found against true volume. Raises OutputError where it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    regions = lesion_classes(content["classes"])
    groups = _groups(models, content)
    wide = min(max(4.6, 1.6 + 0.34 * len(models) * len(groups)), 12.0)
    engine = ConstrainedLayoutEngine(rect=(0, 0.025, 1, 0.965), h_pad=0.1, w_pad=0.1)
    figure = Figure((wide * len(regions) + 4.4, 8.8), dpi=130, layout=engine)
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        2, len(regions) + 1, squeeze=False, width_ratios=[*[wide] * len(regions), 4.4]
    )
    for column, region in enumerate(regions):
        _dice_panel(axes[0, column], models, groups, region)
        _volume_panel(axes[1, column], models, region)
    _false_panel(axes[0, -1], models, content)
    _legend(axes[1, -1], models, content)
    figure.text(0.004, 0.004, strokect.RESEARCH_USE_ONLY, fontsize=8, color="#555555", va="bottom")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})


def _groups(models: Models, content: Mapping[str, Any]) -> list[str]:
    """Groups with a true lesion, "all" where patients have none."""
    with_lesion = {s.case.group for scores in models.values() for s in scores if s.affected}
    return [g for g in content["groups"] if g in with_lesion] or [ALL]


def _dice_panel(ax: Any, models: Models, groups: Sequence[str], region: str) -> None:
    for place, group in enumerate(groups):
        for number, scores in enumerate(models.values()):
            values = np.array([
                s.dice for s in scores
                if s.region == region and s.affected and group in (ALL, s.case.group)
            ])  # fmt: skip
            _strip(ax, _position(place, number, len(models)), values, number, len(models))
    counts = [
        len({s.case.patient for scores in models.values() for s in scores
             if s.region == region and s.affected and g in (ALL, s.case.group)})
        for g in groups
    ]  # fmt: skip
    ax.set_xticks(
        range(len(groups)), [f"{g}\nn = {n}" for g, n in zip(groups, counts, strict=True)]
    )
    ax.set_xlim(-0.5, len(groups) - 0.5)
    ax.set_ylim(-0.03, 1.03)
    _style(ax, f"Dice, {region}", "patients with a true lesion", "")


def _false_panel(ax: Any, models: Models, content: Mapping[str, Any]) -> None:
    region = "hypoperfusion" if "hypoperfusion" in content["classes"] else content["classes"][0]
    n, most = 0, 1.0
    for number, scores in enumerate(models.values()):
        values = np.array([s.found_ml for s in scores if s.region == region and not s.affected])
        n, most = max(n, len(values)), max([most, *values])
        _strip(ax, _position(0, number, len(models)), values, number, len(models))
    ax.set_xticks([0], [f"no lesion\nn = {n}"])
    ax.set_xlim(-0.5, 0.5)
    ax.set_ylim(-0.04 * most, 1.06 * most)
    _style(ax, f"False {region}, ml", "patients without a true lesion", "")


def _volume_panel(ax: Any, models: Models, region: str) -> None:
    """Found against true volume; the line is where both are equal."""
    most = 1.0
    for number, scores in enumerate(models.values()):
        pairs = [(s.true_ml, s.found_ml) for s in scores if s.region == region]
        true, found = np.array(pairs).reshape(-1, 2).T
        most = max([most, *true, *found])
        ax.scatter(true, found, **look(number), s=26, alpha=0.75, linewidths=0, zorder=3)
    low, high = -0.03 * most, 1.04 * most
    ax.plot([0, most], [0, most], color="#777777", linewidth=1, zorder=2)
    ax.set(xlim=(low, high), ylim=(low, high))
    ax.set_aspect("equal", adjustable="box")
    _style(ax, f"Volume, {region}, ml", "true", "found")


def _strip(ax: Any, x: float, values: FloatArray, number: int, n_models: int) -> None:
    """A box (median, quartiles, whiskers to 1.5 of their distance) under its points.

    values : (N,), one per study. x : place of the box. number : of the model.
    """
    if not len(values):
        return
    wide = _BAND / n_models
    colour = look(number)["color"]
    if len(values) >= _LEAST_BOX:
        ax.boxplot(
            values, positions=[x], widths=0.8 * wide, showfliers=False, patch_artist=True,
            manage_ticks=False, zorder=2,
            boxprops={"facecolor": colour + "33", "edgecolor": colour},
            medianprops={"color": colour, "linewidth": 2},
            whiskerprops={"color": colour}, capprops={"color": colour},
        )  # fmt: skip
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    spread = ((ranks * 0.618034) % 1 - 0.5) * 0.55 * wide  # even and the same each time
    ax.scatter(x + spread, values, **look(number), s=20, alpha=0.8, linewidths=0, zorder=3)


def _position(place: int, number: int, n_models: int) -> float:
    return place + _BAND * ((number + 0.5) / n_models - 0.5)


def _legend(ax: Any, models: Models, content: Mapping[str, Any]) -> None:
    ax.set_axis_off()
    for number, name in enumerate(models):
        ax.scatter([], [], **look(number), s=40, label=short(name))
    ax.legend(
        loc="upper left", title="Model", alignment="left", frameon=False, fontsize=10,
        title_fontproperties={"weight": "bold", "size": 10},
    )  # fmt: skip
    words = (
        f"{content['studies']} studies of {content['patients']} patients,\n"
        "common to all models.\n\n"
        "A point is one study; a box its group's\nmedian and quartiles. The line in the\n"
        "lower panels: found equals true."
    )
    ax.text(0.03, 0.02, words, transform=ax.transAxes, fontsize=9, color="#444444", va="bottom")


def _style(ax: Any, title: str, x_name: str, y_name: str) -> None:
    ax.set_title(title, fontsize=11, fontweight="bold", loc="left")
    style(ax, x_name, y_name)
