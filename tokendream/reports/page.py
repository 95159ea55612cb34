"""The frame of every HTML page of ours: self-contained, in one style, with facts as a line under the title."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
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
