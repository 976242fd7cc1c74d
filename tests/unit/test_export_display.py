"""What the command `export` shows on standard error."""

import io

import pytest

from service.commands.export.display import Display


class Terminal(io.TextIOWrapper):
    """A terminal that keeps what was written."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict")

    def isatty(self) -> bool:
        return True

    def written(self) -> str:
        """Everything that was written."""
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding)

    def screen(self) -> list[str]:
        """The lines that a person sees: a carriage return lets the next characters overwrite the line."""
        lines = []
        for line in self.written().split("\n"):
            seen: list[str] = []
            for part in line.split("\r"):
                seen[: len(part)] = part
            lines.append("".join(seen).rstrip())
        return lines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the display, in seconds."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return now


def test_one_bar_shows_share_amount_speed_and_time_left(clock: list[float]) -> None:
    terminal = Terminal()
    shown = Display(terminal, quiet=False)
    shown.rows(0, 1_000_000)
    clock[0] += 2
    shown.rows(250_000, 1_000_000)
    bar = "━" * 5 + "─" * 15
    assert terminal.screen() == [f"exporting {bar}  25% 250,000 of about 1,000,000 rows, 125,000 rows/s, 0:06 left"]
    shown.say("A sentence.")
    assert terminal.screen()[0] == "A sentence."
    assert terminal.screen()[1].startswith("exporting ━━━━━─")
    clock[0] += 1
    shown.size(1_500_000, 3_000_000)
    clock[0] += 1
    shown.size(3_000_000, 3_000_000)
    assert terminal.screen() == ["A sentence.", f"downloading {'━' * 20} 100% 3.0 MB of 3.0 MB, 1.5 MB/s"]
    shown.clear()
    shown.say("Done.")
    assert terminal.screen() == ["A sentence.", "Done.", ""]


@pytest.mark.parametrize(("columns", "bar"), [("100", True), ("60", False), ("20", False)])
def test_a_line_never_exceeds_the_terminal(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, columns: str, bar: bool
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    terminal = Terminal("ascii")
    shown = Display(terminal, quiet=False)
    for done in range(0, 2_000_000, 100_000):
        clock[0] += 1
        shown.rows(done, 2_000_000)
    lines = terminal.written().split("\r")
    assert max(map(len, lines)) < int(columns)
    assert any("###" in line for line in lines) == bar


def test_elsewhere_lines_come_every_ten_seconds(clock: list[float]) -> None:
    stream = io.StringIO()
    shown = Display(stream, quiet=False)
    for _ in range(25):
        shown.rows(int(clock[0]) * 1000, None)
        clock[0] += 1
    shown.size(0, 5)
    shown.size(5, 5)
    assert stream.getvalue().splitlines() == [
        "exporting: 110,000 rows, 1,000 rows/s",
        "exporting: 120,000 rows, 1,000 rows/s",
    ]


def test_a_new_attempt_begins_anew(clock: list[float]) -> None:
    terminal = Terminal()
    shown = Display(terminal, quiet=False)
    for done in (0, 500_000, 0, 1000):
        shown.rows(done, 1_000_000)
        clock[0] += 1
    assert "1,000 rows/s" in terminal.screen()[-1]


def test_a_quiet_command_only_explains_errors(clock: list[float]) -> None:
    terminal = Terminal()
    shown = Display(terminal, quiet=True)
    shown.rows(1, 2)
    shown.size(1, 2)
    shown.say("Export 1 was created.")
    shown.fail("There is no space left.")
    assert terminal.written() == "There is no space left.\n"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2_345_678, "2.3 MB"), (5_000_000_000, "5.00 GB")],
)
def test_sizes_are_decimal(clock: list[float], size: int, text: str) -> None:
    terminal = Terminal()
    Display(terminal, quiet=False).size(size, size)
    assert f"{text} of {text}" in terminal.written()
