r"""Measure a large run's page: the seconds to write it, its size, and the time until a browser shows it.

    python bench/page.py --output_dir runs/page     # 50,000 questions with five solutions each
    python bench/page.py --rows 5000 --browser /path/to/chrome --output_dir runs/page

The run is made from problems and solutions of recipes/tiny/data with other numbers, in the folders that real
stages leave: generated, filtered, solved and selected. The page is opened three times in headless Chromium,
each time with an empty profile, and asked for its first contentful paint. Targets: 30 MB, and a first paint
within 2 seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import websockets

from scalequest.records import read_rows
from scalequest.run_page.page import write_run_page
from scalequest.stage.folder import Stage

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BLOCK = 10_000
KEYS = ("query", "response")
ROOT = Path(__file__).parents[1]
PAINT = """new Promise(done => new PerformanceObserver(list => {
  const found = list.getEntriesByName('first-contentful-paint')[0];
  if (found) done(found.startTime);
}).observe({type: 'paint', buffered: true}))"""


def write_stage(
    folder: Path, name: str, kept: Sequence[Mapping[str, Any]], dropped: Any, source: Path | None
) -> Path:
    """Write the folder of a finished stage."""
    inputs = {str(source): "made by bench/page.py"} if source else {}
    made = Stage.open(
        folder, name=name, version=1, config={}, fingerprint={"folder": folder.name}, inputs=inputs
    )
    for block, places in enumerate(made.blocks.cut(len(kept), BLOCK)):
        rows = [dict(kept[place]) for place in places]
        lost = dropped if block == 0 else []
        made.blocks.write(
            block, rows, lost, tokens=40 * len(rows), seconds=60.0, prompt_tokens=30 * len(rows)
        )
    made.finish(rows_in=len(kept) + len(dropped), card=name)
    made.close()
    return folder


def write_run(folder: Path, count: int) -> None:
    """Write a run of four stages; every tenth question is dropped, and all others have five solutions."""
    rng = random.Random(7)
    known = read_rows(ROOT / "recipes/tiny/data/solved.jsonl.gz")
    problems = [
        {key: re.sub(r"\d+", lambda _: str(rng.randint(2, 99)), known[i % len(known)][key]) for key in KEYS}
        for i in range(count)
    ]
    asked: list[dict[str, Any]] = [
        {"id": f"q-{i:06d}", "question": problem["query"], "generator": rng.choice(("first", "second"))}
        for i, problem in enumerate(problems)
    ]
    source = write_stage(folder / "generate_questions", "generate_questions", asked, [], None)
    lost = [(row, rng.choice(("unsolvable", "near_duplicate", "too_easy"))) for row in asked[::10]]
    kept = [(row, problem) for i, (row, problem) in enumerate(zip(asked, problems, strict=True)) if i % 10]
    filtered = [row for row, _ in kept]
    source = write_stage(folder / "filter_questions", "filter_questions", filtered, lost, source)
    solved: list[dict[str, Any]] = [
        {
            **row,
            "responses": [problems[(i + k) % count]["response"] for k in range(5)],  # all different
            "answers": [str(i)] * 5,
            "finish_reasons": ["stop"] * 5,
            "tokens": [len(problem["response"].split())] * 5,
            "rewards": [round(rng.gauss(0, 1), 3) for _ in range(5)],
            "agreement": rng.randint(1, 5) / 5,
            "fail_rate": rng.randint(0, 4) / 5,
        }
        for i, (row, problem) in enumerate(kept)
    ]
    source = write_stage(folder / "solve_questions", "solve_questions", solved, [], source)
    chosen = [{**row, "response": row["responses"][0], "answer": row["answers"][0]} for row in solved]
    write_stage(folder / "select_solutions", "select_solutions", chosen, [], source)


class Browser:
    """A headless Chromium with an empty profile, driven by its DevTools protocol."""

    def __init__(self, program: str) -> None:
        self.profile = tempfile.mkdtemp(prefix="page-")
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            "--no-first-run",
        ]
        command = [program, *flags, f"--user-data-dir={self.profile}", "about:blank"]
        try:
            self.process = subprocess.Popen(
                command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
            )
        except OSError as error:
            raise SystemExit(f"error: --browser {program}: {error.strerror}") from None
        assert self.process.stderr is not None
        ports = (re.search(r"ws://[^:]+:(\d+)/", line) for line in self.process.stderr)
        if (found := next(filter(None, ports), None)) is None:
            raise SystemExit(
                f"error: --browser {program} ended without a DevTools port; it must be a Chromium"
            )
        self.port, self.sent = int(found[1]), 0

    async def connect(self) -> None:
        """Connect to the only tab."""
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/json/list") as answer:
            tab = next(tab for tab in json.load(answer) if tab["type"] == "page")
        self.socket = await websockets.connect(tab["webSocketDebuggerUrl"], max_size=None)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method, and return its result."""
        self.sent += 1
        await self.socket.send(json.dumps({"id": self.sent, "method": method, "params": params}))
        while (found := json.loads(await self.socket.recv())).get("id") != self.sent:
            pass
        return dict(found["result"])

    async def value(self, expression: str) -> Any:
        """Evaluate JavaScript in the page, waiting for a promise."""
        found = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        return found["result"].get("value")

    def close(self) -> None:
        """Stop the browser, and delete its profile."""
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


async def first_paint(program: str, page: Path) -> float:
    """Return the seconds until the page shows something."""
    browser = Browser(program)
    try:
        await browser.connect()
        await browser.call("Page.enable")
        await browser.call("Page.navigate", url=page.resolve().as_uri())
        return float(await browser.value(PAINT)) / 1000
    finally:
        browser.close()


def main(args: argparse.Namespace) -> int:
    """Write the run and its page, open it, and print one JSON line. Returns 1 if a target is missed."""
    program = args.browser or next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None and args.repeats:
        print(
            f"error: no browser found; looked for {', '.join(BROWSERS)}; name one with --browser, or measure "
            "without one with --repeats 0",
            file=sys.stderr,
        )
        return 2
    run, page = args.output_dir / f"rows_{args.rows}", args.output_dir / f"rows_{args.rows}.html"
    if not run.exists():
        write_run(run, args.rows)
    started = time.monotonic()
    write_run_page(run, page)
    seconds = time.monotonic() - started
    paints = [asyncio.run(first_paint(str(program), page)) for _ in range(args.repeats)]
    found = {
        "rows": args.rows,
        "seconds_to_write": round(seconds, 1),
        "megabytes": round(page.stat().st_size / 1e6, 1),
        "first_paint_s": round(statistics.median(paints), 2) if paints else None,
        "all_paints_s": [round(paint, 2) for paint in paints],
    }
    print(json.dumps(found))
    return int(found["megabytes"] > 30 or (bool(paints) and found["first_paint_s"] > 2))


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--output_dir", type=Path, required=True, help="folder for the run and its page")
    made.add_argument("--rows", type=int, default=50_000, help="number of questions")
    made.add_argument("--repeats", type=int, default=3, help="how often the page is opened; 0: no browser")
    made.add_argument("--browser", help="a Chromium; otherwise the first one on the path")
    return made


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
