"""What the figures of scores share: colours, markers, axes, the same bytes for the same scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import strokect
from strokect.io.outputs import atomic_file

#: Colours that readers with any colour vision tell apart (Okabe M, Ito K, 2008), and markers.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F",
)  # fmt: skip
MARKERS = "os^DvPX*"
_LONGEST = 28  # characters of a name in a figure
_FOOT_IN, _LEGEND_IN = 0.24, 0.26  # inches


def look(number: int) -> dict[str, str]:
    """Colour and marker of a line of a legend; both change, so that grey prints stay readable."""
    turn = number // len(COLOURS)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + turn) % len(MARKERS)],
    }


def short(name: str, longest: int = _LONGEST) -> str:
    """A name for a figure: not too long, and never read as mathematics."""
    cut = name if len(name) <= longest else name[: longest - 1] + "…"
    return cut.replace("$", r"\$")


def style(ax: Any, x_name: str, y_name: str) -> None:
    """Names of the axes, light lines, no box."""
    ax.set_xlabel(x_name, fontsize=9)
    ax.set_ylabel(y_name, fontsize=9)
    ax.tick_params(labelsize=9)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.7, zorder=0)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def canvas(width_in: float, height_in: float, legend_lines: int = 0) -> Any:
    """An empty figure of that size, with room at its foot for legends and the last line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    foot = (_FOOT_IN + legend_lines * _LEGEND_IN) / height_in
    engine = ConstrainedLayoutEngine(rect=(0, foot, 1, 1 - foot), h_pad=0.08, w_pad=0.1)
    figure = Figure((width_in, height_in), dpi=130, layout=engine)
    FigureCanvasAgg(figure)
    return figure


def add_legend(figure: Any, handles: Sequence[Any], line: int) -> None:
    """A legend of one line at the foot of a ``canvas``; line : counted upwards from 0."""
    bottom = (_FOOT_IN + line * _LEGEND_IN) / figure.get_figheight()
    legend = figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, bottom), ncols=max(len(handles), 1),
        frameon=False, fontsize=9, borderpad=0.2, borderaxespad=0.2, columnspacing=1.6,
    )  # fmt: skip
    legend.set_in_layout(False)


def save(figure: Any, path: Path, notes: Sequence[str] = ()) -> None:
    """Write a figure as PNG, notes and the warning at its foot: the same figure, the same bytes.

    Raises OutputError where it cannot be written.
    """
    words = "   ".join([strokect.RESEARCH_USE_ONLY, *notes])
    figure.text(0.004, 0.05 / figure.get_figheight(), words, fontsize=8, color="#555555")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})
