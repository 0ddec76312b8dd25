"""The report as one HTML page that needs nothing else: styles, script and charts are inside."""

from __future__ import annotations

from base64 import b64encode
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from functools import cache, partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from airflow_provider_segstats.core.model import titled
from airflow_provider_segstats.report import charts
from airflow_provider_segstats.report.baseline import WEEK
from airflow_provider_segstats.report.figures import BRIDGED, ratio, total

if TYPE_CHECKING:
    from jinja2 import Template

    from airflow_provider_segstats.report.figures import Figures, Line, Segment, Trend
    from airflow_provider_segstats.report.findings import Finding

ROWS = 6000
"""The table has no more: beyond, it leaves the channels to the files, and then the smallest segments."""
CARDS = 12
"""Up to so many segments each have a chart; of more, those that moved most are shown."""
CARD_LINES = 6
OPEN = 40
"""Up to so many segments show their channels at once; of more, when asked to."""
CHANNEL_CARDS = 8
MOVERS = 10
OTHER_COUNTERS = 3
NAMED = 20
"""How many a message names before it says how many more there are."""

_DASH, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
# Each label but the last ends at a limit.
_AGE_LIMITS, _AGES = (
    (6, 12, 24, 48, 168),
    ("under 6 h", "6 to 12 h", "12 to 24 h", "1 to 2 d", "2 to 7 d", "over 7 d"),
)
_GROWTH_LIMITS = (-0.1, -0.05, -0.01, 0.01, 0.05, 0.1)
_GROWTHS = (
    f"under {_MINUS}10%",
    f"{_MINUS}10 to {_MINUS}5%",
    f"{_MINUS}5 to {_MINUS}1%",
    "±1%",
    "1 to 5%",
    "5 to 10%",
    "over 10%",
)
_SAID = {"waiting": "not due", "unlisted": "not in the list"}
"""What a state is called where its own name does not say it."""
_HERE = Path(__file__).parent


def page(figures: Figures, files: Mapping[str, str]) -> str:
    """Return the page. ``files`` are the names of those beside it, by kind: ``{"CSV": "….csv"}``."""
    script = (_HERE / "page.js").read_text()
    many = len(figures.segments) > CARDS
    of_others = (channel for other in figures.others for channel, _ in other.channels)
    channels = dict.fromkeys([*figures.channels, *of_others])
    colours = {channel: min(at, charts.COLOURS) for at, channel in enumerate(channels, 1)}
    cards = figures.segments if 1 < len(figures.segments) <= CARDS else ()
    return _template().render(
        figures=figures,
        files=files,
        css=(_HERE / "page.css").read_text(),
        script=script,
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        messages=messages(figures),
        colours=colours,
        channels=list(figures.channels.items())[:CHANNEL_CARDS],
        shares=sorted(_by_colour(figures.channels.items(), colours).items()),
        bar=partial(_bar, colours),
        shares_told=_shares_told(figures),
        cards=cards,
        card_lines=CARD_LINES,
        growths=[
            [(colours[line.last.channel], line.trend.counted) for line in segment.lines[:CARD_LINES]]
            for segment in cards
        ],
        movers=_movers(figures) if many else (),
        ages=_ages(figures) if many else (),
        changes=_changes(figures) if many else (),
        tally=_tally,
        other_counters=_other_counters(figures),
        listed=_listed(figures),
        with_channels=len(figures.segments) + sum(len(of.lines) for of in figures.segments) <= ROWS,
        closed=len(figures.segments) > OPEN,
        told=partial(_told, figures.nights),
        beside=_beside(figures),
        said=_SAID,
        charts=charts,
        SMALL=(300, 150),
        bridged=BRIDGED,
        week=WEEK,
    )


def messages(figures: Figures) -> list[tuple[str, str]]:
    """Return what a reader is to know first, as pairs of a kind (warning, note, fine) and a sentence.

    The warnings are what the check finds; fine is only a night in which it finds nothing.
    """
    several = len(figures.sources) > 1
    warnings = [_told_together(found, several) for found in _grouped(figures.findings)]
    if figures.segments and figures.total.now is None:
        warnings.append(f"No segment has had {figures.counter} for over {BRIDGED} nights.")
    notes = [
        f"The account {old} goes on as {new}: they are shown as one." for old, new in figures.renamed.items()
    ]
    if (more := len(warnings) - NAMED) > 0:
        warnings[NAMED:] = [f"The check finds {more} more."]
    if left := sum(figures.beyond.values()):
        until = day(max(figures.beyond))
        what = "a segment has" if left == 1 else f"{number(left)} segments have"
        notes.append(f"Later nights are left out: {what} newer counts, up to {until}.")
    if gone := figures.of_state("gone"):
        notes.append(
            f"Not counted for over {BRIDGED} nights, and so not in the totals: {_names_of(gone, several)}."
        )
    if new := [segment for segment in figures.segments if segment.new]:
        notes.append(f"New in the last week: {_names_of(new, several)}.")
    for channel, segments in _by_channel(figures, lambda line: line.new):
        notes.append(f"The channel {channel} is new in {_names_of(segments, several)}.")
    if len(figures.nights) <= WEEK:
        notes.append(f"A week's change needs {WEEK + 1} nights of history; there are {len(figures.nights)}.")
    fine = [] if warnings else ["All that was due was counted, and the check finds nothing."]
    return (
        [("warning", text) for text in warnings]
        + [("fine", text) for text in fine]
        + [("note", text) for text in notes]
    )


def _grouped(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Return the findings, those together that one sentence tells."""
    groups: dict[object, list[Finding]] = {}
    for finding in findings:
        alike = (finding.what, finding.source, finding.channel, finding.reason, finding.id is None)
        alone = finding.counter is not None or finding.what not in {"missing", "stale", "vanished"}
        groups.setdefault(id(finding) if alone else alike, []).append(finding)
    return list(groups.values())


def _told_together(found: Sequence[Finding], several_sources: bool) -> str:
    first = found[0]
    where = f"{first.source}: " if several_sources else ""
    because = f": {first.reason}" if first.reason else ""
    names = _names((finding.kind, finding.id, finding.name) for finding in found if finding.id is not None)
    if first.id is None or first.counter is not None:
        text = str(first)
        return f"{where}{text[0].upper()}{text[1:]}."
    if first.what == "vanished":
        return f"{where}The channel {first.channel} has vanished from {names}."
    if first.what == "missing":
        return f"{where}Never counted: {names}{because}."
    return f"{where}Not counted when due: {names}{because}."


def _beside(figures: Figures) -> str:
    """Return what the week's change leaves out, since only one of the two nights has it."""
    told = [
        f"{number(count)} of {number(segments)} {'segment' if segments == 1 else 'segments'} "
        f"{_SAID.get(what, what)}"
        for what, (segments, count) in figures.beside().items()
    ]
    return f"Not in the week's change: {'; '.join(told)}." if told else ""


def _movers(figures: Figures) -> list[tuple[str, list[Segment]]]:
    up, down = figures.movers(MOVERS)
    more, less = figures.movers(MOVERS, by_share=True)
    return [("Up, by count", up), ("Down, by count", down), ("Up, by share", more), ("Down, by share", less)]


def age(span: timedelta) -> str:
    """Return a time's length in its two largest units: 12 min, 3 h 5 min, 2 d 4 h."""
    minutes = int(span.total_seconds() / 60)
    if minutes < 1:
        return "< 1 min"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d" + (f" {hours} h" if (hours := minutes % 1440 // 60) else "")


def number(value: int | None) -> str:
    """Return 1,234,567; a dash for None, as all of these."""
    return _DASH if value is None else f"{value:,}".replace("-", _MINUS)


def signed(value: int | None) -> str:
    """Return a change with its sign."""
    return _DASH if value is None else f"{value:+,}".replace("-", _MINUS) if value else "±0"


def percent(value: float | None) -> str:
    """Return a share in per cent."""
    return _DASH if value is None else f"{100 * value:,.1f}%".replace("-", _MINUS)


def signed_percent(value: float | None) -> str:
    """Return a relative change in per cent."""
    if value is None:
        return _DASH
    text = f"{100 * value:+,.1f}%"
    return f"±{text[1:]}" if text[1:] == "0.0%" else text.replace("-", _MINUS)


def day(value: date) -> str:
    """Return 24 November 2026."""
    return f"{value.day} {value:%B %Y}"


def tone(value: float | None) -> str:
    """Return the CSS class of a change: its colour only repeats what the sign says."""
    return "up" if value and value > 0 else "down" if value and value < 0 else "even"


def _told(days: Sequence[date], trend: Trend) -> str:
    """Return what a chart of the trend shows, for those who do not see it."""
    there = [(value, at) for value, at in zip(trend.counted, days, strict=True) if value is not None]
    if not there:
        return "There is no count."
    (first, since), (last, until) = there[0], there[-1]
    (low, low_day), (high, high_day) = min(there), max(there)
    text = (
        f"From {number(first)} on {_short(since)} to {number(last)} on {_short(until)}; "
        f"lowest {number(low)} on {_short(low_day)}, highest {number(high)} on {_short(high_day)}."
    )
    return text + (f" Nights without a count: {gaps}." if (gaps := len(days) - len(there)) else "")


def _shares_told(figures: Figures) -> str:
    """Return the channels' shares on the first and the last day."""
    then, now = figures.total.known[0], figures.total.known[-1]
    return "; ".join(
        f"{channel} from {percent(ratio(trend.known[0], then))} to {percent(ratio(trend.known[-1], now))}"
        for channel, trend in islice(figures.channels.items(), NAMED)
    )


def _short(value: date) -> str:
    return f"{value.day} {value:%b %Y}"


def _names(things: Iterable[tuple[str, int, str | None]]) -> str:
    """Return what the sentence is about: ``segments 7, 8 and 3 more``, ``Readers (7), database 3``."""
    named = list(things)
    if any(kind != "segment" or name is not None for kind, _, name in named):
        return _first(titled(*thing) for thing in named)
    return f"segment{'s' if len(named) > 1 else ''} {_first(str(id_) for _, id_, _ in named)}"


def _names_of(segments: Iterable[Segment], several_sources: bool) -> str:
    """Return the same of segments of all accounts."""
    by_source: dict[str, list[tuple[str, int, str | None]]] = defaultdict(list)
    for segment in segments:
        by_source[segment.source].append((segment.kind, segment.id, segment.name))
    return "; ".join(
        _names(things) + (f" of {source}" if several_sources else "") for source, things in by_source.items()
    )


def _first(names: Iterable[str]) -> str:
    named = list(names)
    more = len(named) - NAMED
    return ", ".join(named[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _by_colour(
    trends: Iterable[tuple[str, Trend]], colours: Mapping[str, int]
) -> dict[int, list[int | None]]:
    """Return what is known of channels by day, those of one colour summed."""
    found: dict[int, list[Trend]] = defaultdict(list)
    for channel, trend in trends:
        found[colours[channel]].append(trend)
    return {colour: list(total(parts).known) for colour, parts in found.items()}


def _bar(colours: Mapping[str, int], lines: Iterable[tuple[str, Trend]]) -> list[tuple[int, int]]:
    """Return the parts of a bar as colours and sizes."""
    parts: Counter[int] = Counter()
    for channel, trend in lines:
        parts[colours[channel]] += max(trend.now or 0, 0)
    return sorted(parts.items())


def _listed(figures: Figures) -> Sequence[Segment]:
    """Return the segments that the table has room for."""
    smallest_last = sorted(figures.segments, key=lambda segment: -(segment.trend.now or 0))
    return sorted(smallest_last[:ROWS], key=lambda segment: (segment.source, segment.id))


def _by_channel(figures: Figures, holds: Callable[[Line], bool]) -> list[tuple[str, list[Segment]]]:
    """Return the first channels that have such lines, with the segments of these."""
    found: dict[str, list[Segment]] = defaultdict(list)
    for segment in figures.segments:
        for channel in dict.fromkeys(line.last.channel for line in segment.lines if holds(line)):
            found[channel].append(segment)
    return list(islice(found.items(), NAMED))


def _other_counters(figures: Figures) -> list[str]:
    """Return those other counters that most lines have."""
    found = Counter(
        name for segment in figures.segments for line in segment.lines for name in line.last.counters
    )
    del found[figures.counter]
    return [name for name, _ in found.most_common(OTHER_COUNTERS)]


def _ages(figures: Figures) -> list[tuple[str, int]]:
    """Return how many segments' newest count is of what age."""
    hours = [figures.age(segment.updated).total_seconds() / 3600 for segment in figures.segments]
    found = Counter(bisect_right(_AGE_LIMITS, old) for old in hours)
    return [(label, found[at]) for at, label in enumerate(_AGES)]


def _changes(figures: Figures) -> list[tuple[str, int]]:
    """Return how many segments grew or shrank by how much in the week."""
    growths = [
        growth
        for segment in figures.segments
        if segment.trend.week and (growth := segment.trend.week.growth) is not None
    ]
    found = Counter(bisect_right(_GROWTH_LIMITS, growth) for growth in growths)
    return [(label, found[at]) for at, label in enumerate(_GROWTHS)]


def _tally(heights: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{label}: {number(height)}" for label, height in heights)


@cache
def _template() -> Template:
    # Autoescape: names of channels and counters are the server's.
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (age, number, signed, percent, signed_percent, day, tone):
        environment.filters[function.__name__] = function
    environment.globals["ratio"] = ratio
    return environment.get_template("page.html")
