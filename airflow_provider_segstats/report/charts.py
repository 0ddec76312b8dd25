"""The report's charts, as SVG to stand inside its page.

The page may be light or dark, so colours are CSS variables; and it escapes, so no name from a server is
drawn: legends are the page's.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = Sequence[float | None]

COLOURS = 9
"""How many colours a page has for channels, ``--c1`` to ``--c9``; the last is for all further channels."""

SPARK_POINTS = 45

# matplotlib takes none but real colours, so these stand in for the page's variables until the SVG is text.
_QUIET, _LINE, _CHANNEL = "#c0ffa0", "#c0ffb0", "#c0ffe"
_SETTINGS: Mapping[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "font.size": 12,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "axes.edgecolor": _LINE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "grid.color": _LINE,
    "xtick.major.size": 3,
    "xtick.major.pad": 8,  # so that the lowest label of the other axis stays clear
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_SHORTEN = [
    (re.compile(r"^.*?(?=<svg )", re.DOTALL), ""),  # what an SVG file begins with
    (
        re.compile(r'(<svg [^>]*?) width="(\d+)[^"]*" height="\S+"'),
        r'\1 style="max-width:\2pt" aria-hidden="true"',
    ),
    (
        re.compile(r"<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL),
        "",
    ),  # the style is the whole page's
    (re.compile(r'(<g) id="[^"]*"'), r"\1"),
    (re.compile(r" font-family: [^;]*;"), ""),
    (re.compile(r"(\d\.\d\d)\d+(?=[ \"])"), r"\1"),
    (re.compile(r"\s*\n\s*"), " "),
    (re.compile(r"(?<=>) (?=<)| (?=\")"), ""),
]


def trend(name: str, days: Sequence[date], values: Values, colour: int, *, size: tuple[int, int]) -> str:
    """Return a line with gaps where there is no value, the last one marked. The scale fits the values."""

    def draw(axes: Axes) -> None:
        heights = _heights(values)
        low, _ = _scale(axes, heights, "{:,.0f}".format, integer=True)
        axes.plot(heights, color=_colour(colour), linewidth=2, solid_capstyle="round")
        axes.fill_between(range(len(days)), heights, low, color=_colour(colour), alpha=0.08, linewidth=0)
        _mark(axes, heights, colour)
        _day_ticks(axes, days, wide=size[0] > 500)

    return _svg(name, size, draw)


def growth(
    name: str, days: Sequence[date], lines: Sequence[tuple[int, Values]], *, size: tuple[int, int]
) -> str:
    """Return lines of the change since each one's first value, in per cent; a line is a colour and values."""

    def per_cent(value: float) -> str:
        return f"{value:+g}%" if value else "0%"

    def draw(axes: Axes) -> None:
        all_heights = []
        for colour, values in lines:
            base = next((value for value in values if value), None)
            heights = [100 * (value / base - 1) if base else math.nan for value in _heights(values)]
            all_heights += heights
            axes.plot(heights, color=_colour(colour), linewidth=2, solid_capstyle="round")
            _mark(axes, heights, colour)
        _scale(axes, all_heights, per_cent)
        _day_ticks(axes, days, wide=size[0] > 500)

    return _svg(name, size, draw)


def shares(
    name: str, days: Sequence[date], parts: Sequence[tuple[int, Values]], *, size: tuple[int, int]
) -> str:
    """Return stacked areas that add up to 100 % on each day; a part is a colour and values."""

    def draw(axes: Axes) -> None:
        below = [0.0] * len(days)
        totals = [sum(values[day] or 0 for _, values in parts) for day in range(len(days))]
        for colour, values in parts:
            above = [
                at + 100 * (value or 0) / total if total > 0 else math.nan
                for at, value, total in zip(below, values, totals, strict=True)
            ]
            axes.fill_between(range(len(days)), below, above, color=_colour(colour), linewidth=0)
            below = above
        axes.set_ylim(0, 100)
        axes.set_yticks([0, 50, 100], ["0%", "50%", "100%"])
        _day_ticks(axes, days, wide=size[0] > 500)

    return _svg(name, size, draw)


def bars(name: str, lengths: Sequence[tuple[str, int]], *, size: tuple[int, int]) -> str:
    """Return a bar with its number beside it for each label and length, one below the other."""

    def draw(axes: Axes) -> None:
        drawn = axes.barh(
            range(len(lengths)), [length for _, length in lengths], 0.8, color=_QUIET, alpha=0.6
        )
        axes.bar_label(
            drawn, [f"{length:,}" if length else "" for _, length in lengths], padding=3, color=_QUIET
        )
        axes.set_yticks(range(len(lengths)), [label for label, _ in lengths])
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.margins(x=0.15)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)

    return _svg(name, size, draw)


def spark(values: Values, colour: int | None = None) -> str:
    """Return a small line without axes, 4 px a night and 20 px high; without colour in that of the text.

    Of more nights than have room, the last count of every few. Built by hand: there are thousands on a page.
    """
    present = [value for value in values if value is not None]
    if not present:
        return ""
    ends = present[0], present[-1]
    values = _thinned(values)
    present = [value for value in values if value is not None]
    low, high = min(present), max(present)
    path, at, open_ = "", (0, 0), False
    for day, value in enumerate(values):
        if value is not None:
            x, y = 4 * day, round(18 - 16 * (value - low) / (high - low)) if high > low else 10
            if open_:
                path += f"{'' if path[-1].isalpha() else ' '}4 {y - at[1]}".replace(" -", "-")
            else:
                path += f"M{x} {y}l0 0"  # a day between gaps is a dot: its line has round ends
            at, open_ = (x, y), True
        else:
            open_ = False
    kind = f' class="c{colour}"' if colour else ""
    label = f"from {ends[0]:,} to {ends[1]:,}"
    width = 4 * (len(values) - 1) + 4
    return f'<svg{kind} width="{width}" height="20" role="img" aria-label="{label}"><path d="{path}"/></svg>'


def _thinned(values: Values) -> Values:
    """Return the last value of every few, counted from the end, so that they have room."""
    step = math.ceil(len(values) / SPARK_POINTS)
    groups = [values[max(end - step, 0) : end] for end in range(len(values), 0, -step)]
    return [
        next((value for value in reversed(group) if value is not None), None) for group in reversed(groups)
    ]


def _svg(name: str, size: tuple[int, int], draw: Callable[[Axes], None]) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A Figure without pyplot has no window and no global state. The salt makes ids that no other chart of
    # the page has, and the same ones each time.
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    for pattern, replacement in _SHORTEN:
        text = pattern.sub(replacement, text)
    text = text.replace(_QUIET, "var(--quiet)").replace(_LINE, "var(--line)")
    return re.sub(_CHANNEL + r"(\d)", r"var(--c\1)", text)


def _colour(number: int) -> str:
    return f"{_CHANNEL}{min(number, COLOURS)}"


def _heights(values: Values) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _scale(
    axes: Axes, heights: Sequence[float], label: Callable[[float], str], *, integer: bool = False
) -> tuple[float, float]:
    """Fit the scale to the values, with a few lines at round numbers; return its ends."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    present = [height for height in heights if not math.isnan(height)] or [0.0]
    low, high = min(present), max(present)
    room = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=integer))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: label(value).replace("-", "\N{MINUS SIGN}"))
    )
    return low - room, high + room


def _mark(axes: Axes, heights: Sequence[float], colour: int) -> None:
    """Put a dot on the last value, and on those that have no neighbour to draw a line to."""
    there = [False, *(not math.isnan(height) for height in heights), False]
    last = max((day for day in range(len(heights)) if there[day + 1]), default=None)
    dots = [
        day
        for day in range(len(heights))
        if there[day + 1] and (day == last or not (there[day] or there[day + 2]))
    ]
    axes.plot(dots, [heights[day] for day in dots], ".", color=_colour(colour), markersize=9, clip_on=False)


def _day_ticks(axes: Axes, days: Sequence[date], *, wide: bool) -> None:
    """Name the last day and those whole weeks before it; of over half a year, months and their years."""
    most = 8 if wide else 4
    if len(days) <= 183:
        ticks = list(range(len(days) - 1, -1, -7 * math.ceil(len(days) / 7 / most)))
        labels = [f"{days[day].day} {days[day]:%b}" for day in ticks]
    else:
        ticks = [at for at, day in enumerate(days) if day.day == 1]
        ticks = ticks[:: -math.ceil(len(ticks) / most)]
        labels = [f"{days[day]:%b %Y}" for day in ticks]
    axes.set_xticks(ticks, labels)
    axes.set_xlim(-0.5, len(days) - 0.5 if len(days) > 1 else 0.5)
