"""The frontier as an interactive HTML page that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from apex.reporting.frontier import check_frontier

__all__ = ["frontier_page"]

_SCRIPTS = ("numbers.js", "curve.js", "grid.js", "view.js")


def frontier_page(data: Mapping[str, Any]) -> str:
    """The page as text: choose a size, see what the best file of that size is.

    data: what ``apex fit --curve`` writes. With ``#bytes=N`` behind its address the page begins
    at the largest file of at most N bytes. Raises UsageError where data is not a frontier.
    """
    check_frontier(data)
    script = "\n".join(map(_read, _SCRIPTS))
    style = _read("frontier.css")
    # The page runs and is styled by what is hashed here, and by nothing that got into it as data.
    policy = (
        f"default-src 'none'; img-src data:; script-src {_digest(script)}; "
        f"style-src {_digest(style)}"
    )
    # Data comes last, and has no < in it: what it says is never taken for a place to fill.
    page = _read("frontier.html")
    for name, content in (
        ("policy", policy),
        ("style", style),
        ("script", script),
        ("title", escape(f"{data['model']['name']}: quality at every size")),
        ("data", _embedded(data)),
    ):
        page = page.replace(f"<!--{name}-->", content)
    return page


def _read(name: str) -> str:
    return (files("apex.reporting") / "web" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(data: Mapping[str, Any]) -> str:
    """As JSON in which nothing can end the element that holds it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
