"""What a person sees on standard error: one progress bar on a terminal, plain lines elsewhere."""

import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

_REDRAW_SECONDS = 0.1
_LINE_SECONDS = 10.0
_PACE_SECONDS = 10.0
"""The speed is that of the last seconds."""
_BAR = 20
"""Characters. A terminal that is too narrow for it gets the text only."""


class Display:
    """Shows sentences and progress. A terminal that cannot move its cursor (TERM=dumb) gets plain lines."""

    def __init__(self, stream: TextIO, *, quiet: bool) -> None:
        self._stream = stream
        self._quiet = quiet
        self.live = not quiet and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        """Whether progress is redrawn in place, so that frequent updates help."""
        utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
        self._filled, self._open = ("━", "─") if utf8 else ("#", "-")
        self._drawn = ""
        self._next = 0.0
        self._pace = _Pace()
        self._phase = ""

    def say(self, sentence: str) -> None:
        """Print a sentence in a line of its own, unless the command is quiet."""
        if not self._quiet:
            self._print(sentence)

    def fail(self, sentence: str) -> None:
        """Print the sentence that explains an error."""
        self._print(sentence)

    def rows(self, done: int, total: int | None) -> None:
        """Show how many rows the service has read, of an estimate."""
        self._show(
            "exporting", done, total, f"{done:,} of about {total:,} rows" if total else f"{done:,} rows", _rows_per_second
        )

    def size(self, done: int, total: int) -> None:
        """Show how many bytes were downloaded."""
        self._show("downloading", done, total, f"{_size(done)} of {_size(total)}", _bytes_per_second)

    def clear(self) -> None:
        """Remove the bar."""
        self._erase()
        self._phase = ""

    def _show(self, phase: str, done: int, total: int | None, amount: str, speed: Callable[[float], str]) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._pace, self._next = phase, _Pace(), 0.0 if self.live else now + _LINE_SECONDS
        self._pace.add(now, done)
        if self._quiet or (now < self._next and done != total):
            return
        self._next = now + (_REDRAW_SECONDS if self.live else _LINE_SECONDS)
        parts = [amount]
        if per_second := self._pace.per_second():
            parts.append(speed(per_second))
            if total is not None and total > done:
                parts.append(f"{_duration((total - done) / per_second)} left")
        if self.live:
            self._draw(phase, done / total if total else 0.0, ", ".join(parts))
        elif done != total:
            self._print(f"{phase}: {', '.join(parts)}")

    def _draw(self, phase: str, share: float, text: str) -> None:
        room = shutil.get_terminal_size().columns - 1
        bar = ""
        if len(phase) + _BAR + len(text) + len("  100% ") <= room:
            filled = int(_BAR * share)
            bar = f"{self._filled * filled}{self._open * (_BAR - filled)} "
        line = f"{phase} {bar}{share:4.0%} {text}"[:room]
        self._stream.write(f"\r{line}{' ' * (len(self._drawn) - len(line))}")
        self._stream.flush()
        self._drawn = line

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\r{' ' * len(self._drawn)}\r")
            self._stream.flush()
            self._drawn = ""

    def _print(self, sentence: str) -> None:
        drawn = self._drawn
        self._erase()
        self._stream.write(f"{sentence}\n{drawn}")
        self._stream.flush()
        self._drawn = drawn


class _Pace:
    """Speed over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> None:
        """Record an amount. One that is lower than before begins anew: another attempt has started."""
        if self._samples and done < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now, done))
        while now - self._samples[0][0] > _PACE_SECONDS and len(self._samples) > 2:  # noqa: PLR2004 - two make a speed
            self._samples.popleft()

    def per_second(self) -> float:
        """The speed, or 0 while it is unknown."""
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        return (after - before) / (last - first) if last > first else 0.0


def _rows_per_second(per_second: float) -> str:
    return f"{per_second:,.0f} rows/s"


def _bytes_per_second(per_second: float) -> str:
    return f"{_size(per_second)}/s"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:  # noqa: PLR2004 - decimal units
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
