"""The frame of every HTML page of ours and what they are made of: facts, tables, cards, tiles."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def page(title: str, body: Iterable[str]) -> str:
    """A whole page that asks nobody for anything; `title` is plain text, `body` HTML."""
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)} · tokendream</title><style>{style}</style><main>{''.join(body)}</main></html>\n"
    )


def facts(values: Mapping[str, object]) -> str:
    """Names and values in a line that wraps."""
    items = "".join(f"<li>{html.escape(name)} <b>{html.escape(str(value))}</b></li>" for name, value in values.items())
    return f'<ul class="facts">{items}</ul>'


def sentences(said: Iterable[str]) -> str:
    """Sentences of plain text, one below the other."""
    return f"<ul>{''.join(f'<li>{html.escape(sentence)}</li>' for sentence in said)}</ul>"


def table(align: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, small: bool = False) -> str:
    """A table of HTML cells. `align` has a letter for each column, as in LaTeX: l for text, r for numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = (' class="n"' if side == "r" else "" for side in align)
        joined = "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{joined}</tr>"

    kind = ' class="small"' if small else ""
    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table{kind}>{line("th", heads)}{body}</table></div>'


def tiles(cells: Iterable[tuple[str, str]]) -> str:
    """Figures and what they are, side by side."""
    inside = "".join(f'<div class="tile"><b>{value}</b><span>{label}</span></div>' for value, label in cells)
    return f'<div class="tiles">{inside}</div>'


def card(content: str, title: str = "", note: str = "") -> str:
    """A chart or a table in a frame, under its title; the note says how to read it."""
    head = f"<h3>{html.escape(title)}</h3>" if title else ""
    foot = f'<span class="soft">{html.escape(note)}</span>' if note else ""
    return f'<div class="card">{head}{content}{foot}</div>'


def soft(text: str) -> str:
    """An explanation for readers, as HTML."""
    return f'<p class="soft">{text}</p>'


def later(when: str) -> str:
    """In the place of what is not there yet."""
    return f'<p class="later">Appears with {when}.</p>'


def score(value: float) -> str:
    """A score for people: four digits, but never an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
