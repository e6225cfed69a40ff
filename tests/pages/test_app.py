"""Pages with a program in them: whatever their data hold, it is text, and nothing is fetched."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scalequest.pages.app import as_json_block, asset, pack, write_app

HOSTILE = {
    "script": "<script>document.title = 'owned'</script>",
    "end": "</script></SCRIPT ><img src=x onerror=alert(1)>",
    "comment": "<!-- <script>",
    "separators": "a\u2028b\u2029c",
    "nul": "a\x00b",
    "surrogate": "a\ud800b",
    "right to left": "\u202e evil \u05e9\u05dc\u05d5\u05dd",
    "formula": "$" + "x^{2}+" * 20_000 + "$",
}


class Elements(HTMLParser):
    """The elements of a page, and what stands in its scripts by their ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []
        self.blocks: dict[str | None, str] = {}
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += dict(attrs)
        self._script = dict(attrs).get("id") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.blocks[self._script] = self.blocks.get(self._script, "") + data


def page(tmp_path: Path, facts: object) -> str:
    path = tmp_path / "page.html"
    write_app(path, str(HOSTILE["end"]), "run_page", facts, {"rows-index": pack(["x"])})
    return path.read_text(encoding="utf-8")


def test_data_cannot_leave_their_block(tmp_path: Path) -> None:
    plain, hostile = Elements(page(tmp_path, {})), Elements(page(tmp_path, {**HOSTILE, HOSTILE["end"]: 1}))
    assert hostile.names == plain.names
    facts = json.loads(hostile.blocks["facts"])
    assert facts["script"] == HOSTILE["script"]
    assert facts["separators"] == HOSTILE["separators"]
    assert facts[HOSTILE["end"]] == 1
    assert len(facts["formula"]) == len(HOSTILE["formula"])


def test_what_cannot_be_seen_becomes_a_mark(tmp_path: Path) -> None:
    facts = json.loads(as_json_block(HOSTILE))
    assert facts["nul"] == facts["surrogate"] == "a\ufffdb"
    assert "\u202e" not in facts["right to left"]
    assert "\u05e9\u05dc\u05d5\u05dd" in facts["right to left"]
    assert not set("<>&\u2028\u2029") & set(as_json_block(HOSTILE))


def test_a_page_names_no_address_to_fetch_from(tmp_path: Path) -> None:
    text = page(tmp_path, {})
    addresses = set(re.findall(r"https?://[\w./-]+", text))
    assert addresses == {
        "http://www.w3.org/1998/Math/MathML",  # names of languages, which nothing fetches
        "http://www.w3.org/2000/svg",
        "https://github.com/leeoniya/uPlot",
    }
    assert not {"src", "href", "action", "srcset"} & set(Elements(text).attributes)
    assert not re.findall(r"url\((?!data:)[^)]*\)", asset("katex.min.css"))


def test_only_the_pages_own_programs_may_run(tmp_path: Path) -> None:
    text = page(tmp_path, {})
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; ")
    allowed = set(re.findall(r"'sha256-([^']*)'", policy[1]))
    programs = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    hashes = {base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in programs}
    assert len(programs) == 3
    assert hashes == allowed
    assert "unsafe-inline" not in policy[1].split("style-src")[0]


def test_data_are_packed_the_same_way_each_time() -> None:
    assert pack({"a": 1}) == pack({"a": 1})
    assert json.loads(gzip.decompress(base64.b64decode(pack({"a": "ü"})))) == {"a": "ü"}


def test_the_program_writes_text_and_no_markup() -> None:
    program = asset("run_page.js")
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert name not in program


def test_the_libraries_are_those_of_the_manifest(root: Path) -> None:
    command = [sys.executable, "scripts/fetch_page_assets.py", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    sizes = [path.stat().st_size for path in (root / "src/scalequest/pages/assets").iterdir()]
    assert sum(sizes) < 2_500_000


def test_an_altered_library_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "scripts"))
    import fetch_page_assets as script

    for name in ("manifest.json", "uplot.min.js"):
        (tmp_path / name).write_bytes((script.ASSETS / name).read_bytes())
    with (tmp_path / "uplot.min.js").open("a") as file:
        file.write("alert(1)")
    monkeypatch.setattr(script, "ASSETS", tmp_path)
    faults = script.find_faults()
    assert any("uplot.min.js is not dist/uPlot.iife.min.js of uplot@1.6.32" in fault for fault in faults)
    assert any("katex.min.js is not there" in fault for fault in faults)
