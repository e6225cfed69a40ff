"""A page with a program in it, as one file: libraries, styles, facts and packed data inside; nothing fetched.

What models wrote is data: it lies in blocks that no browser runs or reads as markup, and the program puts it
into the page as text. A policy in the page's head lets only the programs run whose hashes it names, and
refuses every connection.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from scalequest.atomic_files import write
from scalequest.pages.markup import visible

_STYLES = ("uplot.min.css", "katex.min.css")
_PROGRAMS = ("uplot.min.js", "katex.min.js")
_LICENCES = {"uPlot (charts)": "uplot.LICENSE", "KaTeX (formulas)": "katex.LICENSE"}
# What could end a block, begin another, or end a line of a program; each has an escape that JSON knows
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def write_app(path: Path, title: str, name: str, facts: Any, blocks: Mapping[str, str]) -> None:
    """Write a page that the program NAME.js builds from its data.

    Args:
        path: the file.
        title: shown by the browser.
        name: of the program and its styles in assets/, without .js and .css.
        facts: anything that JSON can hold; read at once. The same facts give the same bytes.
        blocks: name to data from `pack`; the program unpacks those that it needs.
    """
    programs = [*map(asset, _PROGRAMS), asset(f"{name}.js")]
    styles = [*map(asset, _STYLES), asset(f"{name}.css")]
    head = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(programs)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(visible(title))}</title>",
        *(f"<style>{style}</style>" for style in styles),
        "</head><body>",
        "<noscript>This page draws its tables and charts with a program, which needs JavaScript.</noscript>",
        '<main id="page"></main>',
        f'<script type="application/json" id="facts">{as_json_block(facts)}</script>',
        *(f"<script>{program}</script>" for program in programs),
    ]
    data = [
        f'<script type="text/plain" id="{html.escape(key)}">{value}</script>' for key, value in blocks.items()
    ]
    write(path, "\n".join([*head, *data, _licences(), "</body></html>\n"]).encode())


def as_json_block(value: Any) -> str:
    """JSON that is safe inside a `<script>` element: nothing in it can end it, or is half a character."""
    return _as_json(_visible(value)).translate(_ESCAPES)


def pack(value: Any) -> str:
    """Anything that JSON can hold, its texts already `visible`, compressed, as base64."""
    data = gzip.compress(_as_json(value).encode("utf-8", "replace"), 6, mtime=0)
    return base64.b64encode(data).decode()


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _visible(value: Any) -> Any:
    """A value whose texts, keys included, hold nothing that cannot be seen."""
    if isinstance(value, Mapping):
        return {visible(str(key)): _visible(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_visible(one) for one in value]
    return visible(value) if isinstance(value, str) else value


@cache
def asset(name: str) -> str:
    """A file of assets/, as text.

    Raises:
        ValueError: it cannot stand inside an element of a page.
    """
    text = (files("scalequest.pages") / "assets" / name).read_text(encoding="utf-8")
    if "</script" in text.lower() or "</style" in text.lower() or "<!--" in text:
        raise ValueError(f"{name}: would end the element that it stands in")
    return text.strip()


def _policy(programs: list[str]) -> str:
    hashes = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in programs)
    scripts = " ".join(f"'sha256-{one}'" for one in hashes)
    styles = "style-src 'unsafe-inline'; font-src data:"
    return f"default-src 'none'; script-src {scripts}; {styles}; base-uri 'none'; form-action 'none'"


def _licences() -> str:
    parts = "".join(
        f"<h3>{html.escape(name)}</h3><pre>{html.escape(asset(file))}</pre>"
        for name, file in _LICENCES.items()
    )
    title = "<summary>Licences of the libraries in this page</summary>"
    return f'<details class="licences">{title}{parts}</details>'
