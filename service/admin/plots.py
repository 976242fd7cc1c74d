"""Plots of the last hours, as shapes for an SVG image of 600 by 120 units."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

WIDTH, HEIGHT = 600.0, 120.0
_GAP = 0.2
"""Share of a bar's place that stays empty."""
_LEAST_HEIGHT = 1.5
"""Height of the smallest value that is not 0, so that it can be seen."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar, its value as text, and the start of its interval."""

    x: float
    y: float
    width: float
    height: float
    value: str
    start: datetime


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot; `largest` is the text of its highest bar."""

    name: str
    title: str
    largest: str
    bars: Sequence[Bar]

    @property
    def first(self) -> datetime:
        """The start of the first interval."""
        return self.bars[0].start


def plot(name: str, title: str, values: Sequence[tuple[datetime, float, str]], *, scale: float) -> Plot:
    """A plot of values that are not negative, each with the start of its interval and its text.

    Its full height is the highest value, and at least `scale`.
    """
    highest = max(values, key=lambda each: each[1])
    full = max(scale, highest[1])
    place = WIDTH / len(values)
    bars = []
    for number, (start, value, text) in enumerate(values):
        height = max(_LEAST_HEIGHT, HEIGHT * value / full) if value else 0.0
        x = number * place + place * _GAP / 2
        bars.append(Bar(round(x, 1), round(HEIGHT - height, 1), round(place * (1 - _GAP), 1), round(height, 1), text, start))
    return Plot(name, title, highest[2], bars)
