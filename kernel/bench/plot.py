"""Charts as SVG, written directly: lines on logarithmic axes, and panels of bars.

One file, no script, no font to load, readable on light and dark pages alike (the background is its own). Colours are
those of Okabe and Ito, told apart by people who see colours differently; lines also differ by their marks.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#555555")
OURS, OTHERS = "#0072b2", "#b8c4cc"
INK, FAINT, GRID = "#1f2933", "#66737f", "#e4e8eb"
_NOTE_ROW = 15
_FONT = "font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif"


@dataclass(frozen=True)
class Series:
    """A line: its points by x, and how far the measurements spread around each (low, high), where known."""

    label: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[tuple[float, float]] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over one pair of axes."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_format: Callable[[float], str] = field(default=lambda value: quantity(value))
    y_format: Callable[[float], str] = field(default=lambda value: quantity(value))
    x_ticks: Sequence[float] | None = None


@dataclass(frozen=True)
class Bar:
    """One measured value, and its spread."""

    label: str
    value: float
    low: float
    high: float
    ours: bool = False


@dataclass(frozen=True)
class Panel:
    """Bars that are compared with each other."""

    title: str
    bars: Sequence[Bar]
    format: Callable[[float], str] = field(default=lambda value: quantity(value))


def quantity(value: float) -> str:
    """A number in at most four characters and a unit prefix: 1.5k, 20M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * 0.9995:
            return f"{_digits(value / size)}{unit}"
    return _digits(value)


def byte_size(value: float) -> str:
    """A size in bytes, in binary units: 16 B, 64 KiB."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size:
            return f"{_digits(value / size)} {unit}"
    return f"{_digits(value)} B"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2g}" if value < 10 else f"{value:.3g}"


# --- lines ----------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM, _LEGEND_ROW = 560, 400, 64, 20, 46, 52, 18


def line_charts(title: str, charts: Sequence[Chart], note: str = "") -> str:
    """Charts side by side, each with its legend under it."""
    rows = max(math.ceil(len(chart.series) / 2) for chart in charts)
    width = _WIDTH * len(charts)
    notes = _wrapped(note, width)
    height = 40 + _HEIGHT + rows * _LEGEND_ROW + 12 + _NOTE_ROW * len(notes)
    parts = [_text(20, 28, title, size=17, weight=600)]
    for place, chart in enumerate(charts):
        parts.append(f'<g transform="translate({place * _WIDTH},36)">{"".join(_line_chart(chart))}</g>')
    return _document(width, height, title, [*parts, *_notes(notes, height)])


def _line_chart(chart: Chart) -> Iterable[str]:
    xs = [x for series in chart.series for x, _ in series.points]
    ys = [y for series in chart.series for _, y in series.points] + [
        y for series in chart.series for pair in series.spread for y in pair
    ]
    to_x = _logarithmic(min(xs), max(xs), _LEFT + 10, _WIDTH - _RIGHT - 10)
    y_ticks = _decades(min(ys), max(ys))
    to_y = _logarithmic(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    yield _text(_LEFT, 28, f"{chart.title}, {chart.y_label}", size=13, weight=600)
    yield from _axes(chart, to_x, to_y, chart.x_ticks or sorted(set(xs)), y_ticks)
    for number, series in enumerate(chart.series):
        yield from _line(series, number, to_x, to_y)
        yield from _legend_entry(series, number)


def _axes(
    chart: Chart,
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
) -> Iterable[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for tick in y_ticks:
        yield f'<path d="M{_LEFT} {to_y(tick):.1f}H{right}" stroke="{GRID}"/>'
        yield _text(_LEFT - 8, to_y(tick) + 4, chart.y_format(tick), anchor="end", size=11, colour=FAINT)
    for tick in _thinned(x_ticks, to_x):
        yield f'<path d="M{to_x(tick):.1f} {bottom}v5" stroke="{FAINT}"/>'
        yield _text(to_x(tick), bottom + 18, chart.x_format(tick), anchor="middle", size=11, colour=FAINT)
    yield f'<path d="M{_LEFT} {bottom}H{right}" stroke="{FAINT}"/>'
    yield _text((_LEFT + right) / 2, bottom + 38, chart.x_label, anchor="middle", size=12)


def _line(series: Series, number: int, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> Iterable[str]:
    colour = COLOURS[number % len(COLOURS)]
    places = [(to_x(x), to_y(y)) for x, y in series.points]
    if series.spread:
        upper = [f"{x:.1f} {to_y(high):.1f}" for (x, _), (_, high) in zip(places, series.spread, strict=True)]
        lower = [f"{x:.1f} {to_y(low):.1f}" for (x, _), (low, _) in zip(places, series.spread, strict=True)]
        yield f'<path d="M{"L".join(upper + lower[::-1])}Z" fill="{colour}" opacity="0.13"/>'
    dash = ' stroke-dasharray="5 4"' if series.dashed else ""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    yield f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
    for x, y in places:
        yield _mark(x, y, number)


def _legend_entry(series: Series, number: int) -> Iterable[str]:
    x = _LEFT + (number % 2) * (_WIDTH - _LEFT) / 2
    y = _HEIGHT + 4 + (number // 2) * _LEGEND_ROW
    dash = ' stroke-dasharray="5 4"' if series.dashed else ""
    yield f'<path d="M{x} {y}h22" stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="2"{dash}/>'
    yield _mark(x + 11, y, number)
    yield _text(x + 29, y + 4, series.label, size=12)


def _mark(x: float, y: float, number: int) -> str:
    shapes = (
        "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0",
        "m-3-3h6v6h-6z",
        "m0-4l4 7h-8z",
        "m0-4.2l4.2 4.2l-4.2 4.2l-4.2-4.2z",
        "m0 4l4-7h-8z",
    )
    return f'<path d="M{x:.1f} {y:.1f}{shapes[number % len(shapes)]}" fill="{COLOURS[number % len(COLOURS)]}"/>'


def _logarithmic(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    span = math.log(high / low) or 1.0
    return lambda value: start + (stop - start) * math.log(max(value, low) / low) / span


def _decades(low: float, high: float) -> list[float]:
    """Ticks of 1, (2, 5,) 10, ... around the values."""
    steps = (1,) if high / low > 1000 else (1, 2, 5)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)
    ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
    first = max(tick for tick in ticks if tick <= low * 1.0001)
    last = min(tick for tick in ticks if tick >= high * 0.9999 and tick > first)
    return [tick for tick in ticks if first <= tick <= last]


def _thinned(ticks: Sequence[float], to_x: Callable[[float], float], apart: float = 44) -> list[float]:
    kept: list[float] = []
    for tick in ticks:
        if not kept or to_x(tick) - to_x(kept[-1]) >= apart:
            kept.append(tick)
    return kept


# --- bars -----------------------------------------------------------------------------------------------------

_PANEL_WIDTH, _BAR_ROW, _LABEL_WIDTH, _VALUE_WIDTH, _PANELS_ACROSS = 430, 21, 168, 58, 3


def bar_panels(title: str, panels: Sequence[Panel], note: str = "") -> str:
    """Panels in rows of three; each has a linear axis of its own, and a thin line for the spread of each bar."""
    across = max(1, min(_PANELS_ACROSS, len(panels)))
    panel_height = 44 + _BAR_ROW * max((len(panel.bars) for panel in panels), default=0)
    width = _PANEL_WIDTH * across + 10
    notes = _wrapped(note, width)
    height = 44 + panel_height * math.ceil(len(panels) / across) + 8 + _NOTE_ROW * len(notes)
    parts = [_text(20, 28, title, size=17, weight=600)]
    for place, panel in enumerate(panels):
        x, y = (place % across) * _PANEL_WIDTH, 44 + (place // across) * panel_height
        parts.append(f'<g transform="translate({x},{y})">{"".join(_panel(panel))}</g>')
    return _document(width, height, title, [*parts, *_notes(notes, height)])


def _panel(panel: Panel) -> Iterable[str]:
    yield _text(20, 18, panel.title, size=13, weight=600)
    room = _PANEL_WIDTH - _LABEL_WIDTH - _VALUE_WIDTH - 10
    scale = room / max(bar.high for bar in panel.bars)
    for number, bar in enumerate(panel.bars):
        y = 30 + number * _BAR_ROW
        colour, weight = (OURS, 600) if bar.ours else (OTHERS, 400)
        yield _text(_LABEL_WIDTH - 6, y + 13, bar.label, anchor="end", size=11.5, weight=weight)
        yield f'<rect x="{_LABEL_WIDTH}" y="{y + 2}" width="{bar.value * scale:.1f}" height="14" fill="{colour}"/>'
        low, high = (_LABEL_WIDTH + value * scale for value in (bar.low, bar.high))
        yield f'<path d="M{low:.1f} {y + 9}H{high:.1f}" stroke="{INK}" stroke-width="1"/>'
        yield _text(max(high, low) + 6, y + 13, panel.format(bar.value), size=11, weight=weight)


# --- SVG ------------------------------------------------------------------------------------------------------


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: float = 12,
    weight: int = 400,
    colour: str = INK,
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" font-weight="{weight}" fill="{colour}">{escape(text)}</text>'


def _wrapped(note: str, width: float) -> list[str]:
    """A note in lines that fit; letters of its size are about 6 units wide."""
    return textwrap.wrap(note, max(20, int((width - 40) / 6)))


def _notes(lines: Sequence[str], height: float) -> list[str]:
    first = height - 8 - _NOTE_ROW * (len(lines) - 1)
    return [_text(20, first + number * _NOTE_ROW, line, size=11, colour=FAINT) for number, line in enumerate(lines)]


def _document(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" style="{_FONT}">'
    ground = f'<title>{escape(title)}</title><rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([head + ground, *parts, "</svg>"]) + "\n"
