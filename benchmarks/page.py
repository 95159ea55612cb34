"""Pages that commands write: tables as Markdown between two markers of a file, and plots beside it.

The prose around the markers is written by hand and stays as it is. What a command found is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokendream.errors import ConfigError
from tokendream.reports.charts import figure_svg
from tokendream.runfolder import files

WALL, PROCESSOR = "wall-clock time", "processor time of one thread, as the machine did other work"

Text = Callable[[dict[str, str]], Iterable[str]]
"""From the file names of plots, by the plots' names, to lines of Markdown."""


@dataclass(frozen=True)
class Section:
    """The part of a page that a command writes."""

    command: str
    kind: str = ""
    """Of the processor, where each has a section of its own."""

    @property
    def begin(self) -> str:
        """The marker before it."""
        return f"<!-- benchmarks {self._name}: begin -->"

    @property
    def end(self) -> str:
        """The marker after it."""
        return f"<!-- benchmarks {self._name}: end -->"

    @property
    def _name(self) -> str:
        return f"{self.command} {self.kind}".rstrip()

    def check(self, page: Path | None) -> None:
        """Raise ConfigError if a file that exists has no place for the section."""
        if page is not None and page.is_file():
            self._around(page)

    def write(self, page: Path, plots: Mapping[str, str], text: Text) -> list[Path]:
        """Put lines between the markers of `page`, which is made where it does not exist, and SVG plots beside it.

        `text` gets the file names of the plots, by the plots' names. Returns what was written.
        """
        before, after = self._around(page) if page.is_file() else (f"{self.begin}\n", f"{self.end}\n")
        drawn = {name: page.with_name(f"{page.stem}-{name}.svg") for name in plots}
        for name, file in drawn.items():
            files.replace_text(file, plots[name])
        lines = "\n".join(text({name: file.name for name, file in drawn.items()}))
        files.replace_text(page, f"{before}{lines}\n{after}")
        return [page, *drawn.values()]

    def _around(self, page: Path) -> tuple[str, str]:
        """The page up to and with the first marker, and from the second on."""
        text = page.read_text(encoding="utf-8")
        start, stop = text.find(self.begin), text.find(self.end)
        if not 0 <= start < stop:
            raise ConfigError(f"{page} has no place for the tables: it needs the lines {self.begin} and {self.end}")
        return text[: start + len(self.begin)] + "\n", text[stop:]


def header(
    command: str,
    preset: str,
    facts: Mapping[str, Any],
    *,
    quick: bool,
    profile: bool = False,
    only: str = "",
    clock: str,
    how: str,
) -> str:
    """What a reader must know to compare figures: the command that found them, where and how."""
    flags = " --quick" * quick + " --profile" * profile + " --cpu-time" * (clock != WALL)
    flags += f' --only "{only}"' if only else ""
    load = f", load average {facts['load']:.3g} at the start" if facts.get("load") is not None else ""
    return (
        f"`python -m benchmarks {command} --preset {preset}{flags}`, {facts['date'][:10]}, commit "
        f"{facts['commit'] or 'unknown'}: {facts['device']}, {facts['processor']}, torch {facts['torch']}{load}; "
        f"{clock}, median (least to most) of repetitions, {how}."
    )


def head(*titles: str) -> tuple[str, str]:
    """The first two lines of a table."""
    return line(*titles), "|" + "---|" * len(titles)


def line(*cells: object) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def short(value: float) -> str:
    """Three figures."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plot(draw: Callable[[Any], None], width: float, height: float) -> str:
    """A plot of so many inches, drawn on the figure that `draw` gets, in the pages' style."""

    def styled(figure: Any) -> None:
        draw(figure)
        for axes in figure.axes:
            axes.grid(True, color="#dddddd", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)

    return figure_svg(styled, width, height)
