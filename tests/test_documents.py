"""What is written for people to copy: commands, links, pins."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import json
import os
import re
import subprocess
import tomllib
from dataclasses import fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from scalequest import __version__
from scalequest.config import bounded_yaml, build, read_yaml
from scalequest.grading import GraderOptions, grade

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(path for part in ("bench", "docs", "eval", "recipes") for path in ROOT.glob(f"{part}/**/*.md")),
]
SCRIPTS = [
    path
    for part in ("recipes", "recipes/tiny", "scripts", "eval", "bench", "slurm")
    for path in ROOT.glob(f"{part}/*.py")
]


@pytest.mark.parametrize("path", [*SCRIPTS, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_of_several_lines_can_be_pasted(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    for before, line in pairwise(lines):
        # The lines of a list of options, unlike those of one command, follow an empty one or each other.
        if re.match(r"\s+--\w", line) and re.search(r"(python|accelerate|\.py) ", before):
            assert before.endswith("\\"), f"{before}\n{line}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = without_code(path.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"\b(?:src|srcset)=\"([^\"]+)\"", text)
    for target in targets:
        if re.match(r"\w+:", target):
            continue
        file, _, section = target.partition("#")
        page = path.parent / file if file else path
        assert page.exists(), target
        if section:
            assert section in sections(page), f"{target}: there are {', '.join(sections(page))}"


def without_code(text: str) -> str:
    """Markdown without its code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def sections(path: Path) -> list[str]:
    """The anchors that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]


def test_the_pins_for_gpus_are_within_our_bounds() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = [
        *setup["options"]["install_requires"].split("\n"),
        *setup["options.extras_require"]["train"].split("\n"),
        *setup["options.extras_require"]["vllm"].split("\n"),
    ]
    bounds = {Requirement(line).name: Requirement(line).specifier for line in wanted if line.strip()}
    text = (ROOT / "requirements/gpu.txt").read_text(encoding="utf-8")
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE):
        if name in bounds:
            assert version in bounds[name], f"{name} {version} is outside {bounds[name]}"
    command = next(line for line in text.splitlines() if "pip install" in line)
    assert "--no-deps" not in command, "what is not pinned would be missing"


@pytest.mark.parametrize(
    "path",
    [
        path
        for part in (
            "src",
            "recipes",
            "scripts",
            "eval",
            "bench",
            "tests",
            "accelerate_configs",
            "slurm",
            "docs",
        )
        for path in ROOT.glob(f"{part}/**/*")
        if path.suffix in (".py", ".yaml", ".md", ".sh")
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_page_that_is_named_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w./{}*-])((?:[\w-]+/)*[\w-]+\.md)\b", text):
        written = {
            "report.md",
            "README.md",
            "readme.md",
            "INVARIANTS.md",
            "index.md",
            "link.md",
            "claims.md",
            *script("build_docs").ELSEWHERE.values(),
        }  # what a run or the site's build writes
        there = any((folder / name).exists() for folder in (ROOT, path.parent))
        assert there or Path(name).name in written, f"there is no page {name}"
    sections = re.findall(r"^## (\d+)\.", (ROOT / "docs/method.md").read_text(encoding="utf-8"), re.MULTILINE)
    for number in re.findall(r"docs/method\.md (\d+)", text):
        assert number in sections, f"docs/method.md has no section {number}"


# Turns of phrase that are not English, with what to write instead.
FOREIGN_TURNS = {
    r"\bstands twice\b": "duplicate ...",
    r"\bcan(not)? be had\b": "cannot be downloaded, is not available",
    r"\bis no (text|string|number|map|list|file|folder|scorer)\b": "must be a string, got ...",
    r"\bgave it up\b": "aborted it",
    r"\bset it right\b": "fix the cause",
    r"\bholds (other|another) ": "contains different ...",
    r"\bas its stage left it\b": "changed since its stage finished",
    r"\b(rows|tokens|seeds?|sequences|steps|pairs|hours) a (row|step|second|block|GPU|card)\b": "... per ...",
}


def messages(path: Path) -> list[tuple[int, str]]:
    """The strings of a program with their lines, docstrings left out; `{}` stands for a value."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, owners) and node.body and isinstance(node.body[0], ast.Expr)
    }
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            found.append((node.lineno, "".join(map(str, parts))))
        elif isinstance(node, ast.Constant) and id(node) not in docstrings | inner:
            found.append((node.lineno, str(node.value)))
    return found


@pytest.mark.parametrize(
    "path",
    [
        path
        for part in ("src/scalequest", "recipes", "scripts", "eval", "bench", "slurm")
        for path in ROOT.glob(f"{part}/**/*.py")
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_messages_are_in_plain_english(path: Path) -> None:
    for line, text in messages(path):
        for pattern, better in FOREIGN_TURNS.items():
            found = re.search(pattern, text)
            assert found is None, f"{path.name}:{line}: '{found and found[0]}': write '{better}'"


# ------------------------------------------------------------------------------------------ what is generated


@cache
def script(name: str) -> Any:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(f"documents_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demos_numbers_are_those_of_its_result_files() -> None:
    demo = script("demo_results")
    for page in demo.PAGES:
        text = page.read_text(encoding="utf-8")
        assert demo.filled(text) == text, f"{page.name}: python scripts/demo_results.py --write"
        assert text.count("<!-- demo: ") == text.count("<!-- end of demo -->") == len(demo.PART.findall(text))


def test_the_comparisons_are_those_of_their_results() -> None:
    peers = script("peer_results")
    text = peers.PAGE.read_text(encoding="utf-8")
    assert peers.filled(text) == text, "docs/peers.md: python scripts/peer_results.py --write"
    assert text.count("<!-- peers: ") == text.count("<!-- end of peers -->") == len(peers.PARTS)
    assert peers.filled(text, []) != text


@pytest.mark.parametrize(
    "name",
    ["README.md", "docs/demo.md", "docs/first_hour.md", "docs/peers.md", "recipes/tiny/models/README.md"],
)
def test_no_result_is_typed_in(name: str) -> None:
    text = script("demo_results").PART.sub("", (ROOT / name).read_text(encoding="utf-8"))
    text = script("peer_results").PART.sub("", text)
    text = re.sub(r"\]\([^)]*\)", "]", without_code(text))
    found = re.findall(r"(?<![\w.-])(?:\d+(?:,\d{3})+|\d+\.\d+|\d{3,})(?![\w-])", text)
    # The models' size, the version of Python, and the hours of the paper's Table 1 (the test below).
    assert set(found) <= {"3.4", "3.11", "1,607"}, f"{name}: numbers of a run belong between markers"


def test_the_hours_of_table_1_are_those_of_the_costs() -> None:
    lines = (ROOT / "recipes/paper/README.md").read_text(encoding="utf-8").splitlines()
    head, row = (next(line for line in lines if start in line) for start in ("| experiment", "[table1]("))
    column = [cell.strip() for cell in head.split("|")].index("GPU-hours")
    hours = row.split("|")[column].strip()
    assert f"takes {hours} hours" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_run_is_read_into_the_result_file(tmp_path: Path) -> None:
    demo = script("demo_results")
    known = json.loads((ROOT / "docs/results/demo.json").read_text(encoding="utf-8"))
    report = {
        "tables": [{"name": name, **table} for name, table in known["tables"].items()],
        "stages": [
            {
                "stage": "sft", "commit": "c" * 40, "ended": "2026-02-03T04:05:06+00:00",
                "fingerprint_fields": {"bf16": True},
                "versions": {"torch": "2", "transformers": "5", "trl": "1", "peft": "0"},
            }
        ],
    }  # fmt: skip
    (tmp_path / "report").mkdir()
    (tmp_path / "report/report.json").write_text(json.dumps(report), encoding="utf-8")
    stages = {"stages": {"qft": {"seconds": 61.4}, "sft": {"seconds": 40.0}, "report": {"seconds": 0.2}}}
    (tmp_path / "run.json").write_text(json.dumps(stages), encoding="utf-8")
    found = demo.read_run(tmp_path, None)
    assert found["tables"] == known["tables"]
    assert found["machine"].endswith("in bfloat16")
    assert "3 February 2026" in demo.summary(found)
    assert "took 102 seconds" in demo.summary(found)
    assert "once for all stages): qft 61, sft 40.\n" in demo.run(found)
    with pytest.raises(SystemExit, match="not the folder of a finished demo"):
        demo.read_run(tmp_path / "report", None)


def test_the_controls_of_two_seeds_are_read_into_their_result_file(tmp_path: Path) -> None:
    demo = script("demo_results")
    known = json.loads((ROOT / "docs/results/controls.json").read_text(encoding="utf-8"))
    labels = {f"model {key}": f"runs/controls/{key}" for key in demo.TRAINED}

    def put(path: Path, content: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML, too

    runs = [tmp_path / "1", tmp_path / "2"]
    for seed, run in enumerate(runs):
        put(run / "evaluate/config.yaml", {"models": labels})
        for row in known["trained"]:
            results = [
                {"benchmark": benchmark, "accuracy": {"value": (row["accuracy"][seed] - less) / 100}}
                for benchmark, less in (
                    ("tinymath_test", 0),
                    ("tinymath_dev", 3 if row["key"] == "sft" else 1),
                )
            ]
            put(run / "evaluate" / f"model {row['key']}" / "results.json", {"results": results})
            put(run / row["key"] / "receipt.json", {"kept": row["pairs"][seed]})
        put(run / "generate_raw/receipt.json", {"rows_in": known["untuned"]})
        put(run / "filter_difficulty_raw/receipt.json", {"kept": known["untuned_left"][seed]})
        written = {
            row["generator"]: {
                "steps": {"value": row["steps"][seed]},
                **{key: {"value": row[key][seed] / 100} for key in demo.WRITTEN},
            }
            for row in known["written"]
        }
        put(run / "measure_questions/questions.json", {"generators": written})
    found = demo.read_controls(runs)
    by_key = {row["key"]: row["accuracy"] for row in known["trained"]}
    differences = [a - b - 2 for a, b in zip(by_key["sft"], by_key["sft_all_equal"], strict=True)]
    assert found["dev_differences"] == pytest.approx(differences)
    for key in ("trained", "written", "untuned", "untuned_left", "base"):
        assert found[key] == known[key]
    (runs[1] / "generate_raw/receipt.json").unlink()
    (runs[1] / "sft/receipt.json").unlink()
    with pytest.raises(SystemExit, match="not the folders of finished controls"):
        demo.read_controls(runs)


def test_the_settings_pages_are_current(quick_python: str) -> None:
    pytest.importorskip("trl")
    command = [quick_python, "scripts/settings_reference.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# -------------------------------------------------------------------------------------------- what is claimed


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_both_pictures_of_the_loop_differ_in_their_colours_alone() -> None:
    light, dark = ((ROOT / f"docs/{name}.svg").read_text(encoding="utf-8") for name in ("loop", "loop_dark"))
    assert light != dark
    assert re.sub(r"#[0-9a-f]{6}", "", light) == re.sub(r"#[0-9a-f]{6}", "", dark)


def checked_tables(path: Path) -> list[list[list[str]]]:
    """The rows of each table of a page that says that it is a test; code without its backticks."""
    text = path.read_text(encoding="utf-8").split("<!-- checked by tests/test_documents.py -->\n")[1:]
    tables = [re.match(r"(?:\|.*\n)+", part) for part in text]
    assert all(tables)
    return [
        [
            [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]
            for line in table[0].splitlines()[2:]
        ]
        for table in tables
        if table
    ]


def test_the_grader_accepts_what_its_page_says() -> None:
    equal, policies = checked_tables(ROOT / "docs/evaluation.md")
    for reference, answer, expected in equal:
        assert grade(answer, reference).correct == {"yes": True, "no": False}[expected], (reference, answer)
    for name, reference, answer, before, text, after in policies:
        said = {"equal": True, "different": False}
        assert grade(answer, reference).correct == said[before], (name, reference, answer)
        (options,) = build((GraderOptions,), bounded_yaml.load(f"{name}: {text}"))
        assert grade(answer, reference, options).correct == said[after], (name, reference, answer)
    others = {"cpu_seconds", "wall_seconds", "memory_mib", "function", "extraction"}
    assert {row[0] for row in policies} | others == {item.name for item in fields(GraderOptions)}


def test_messages_are_quoted_as_they_are_printed() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8").replace("\n", " ")
    texts = [
        re.sub(r"\{\}|%[-\d.]*[sdfg]|%%", "…", text)
        for part in ("src/scalequest", "recipes", "scripts", "slurm")
        for path in sorted((ROOT / part).rglob("*.py"))
        for _, text in messages(path)
        if len(text) > 12
    ]
    quoted = [text for text in re.findall(r"`([^`]+)`", page) if "…" in text and len(text) > 12]
    assert len(quoted) > 25
    for text in quoted:
        parts = [re.escape(part.strip(" '")) for part in text.split("…") if len(part.strip(" :;.'()")) > 3]
        pattern = re.compile(".*".join(parts), re.DOTALL)
        assert any(pattern.search(message) for message in texts), f"no message says: {text}"


# --------------------------------------------------------------------------------------------------- the site


def test_every_page_of_the_site_is_in_its_navigation() -> None:
    site = script("build_docs")
    config = tomllib.loads((ROOT / "docs/zensical.toml").read_text(encoding="utf-8"))
    listed = set(re.findall(r"[\w/]+\.md", str(config["project"]["nav"])))
    settings = {path.name for path in (ROOT / "docs/settings").glob("*.md")} - {"index.md"}
    assert set(re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs/settings/index.md").read_text())) == settings
    assert listed == {place for place in site.pages().values() if not place.startswith("settings/")}


def test_links_of_the_site_stay_on_it() -> None:
    site = script("build_docs")
    places = site.pages()
    for page, place in places.items():
        text = site.adapt(page.read_text(encoding="utf-8"), page, places)
        for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)", without_code(text)):
            if not re.match(r"\w+:", target):
                there = os.path.normpath(Path(place).parent / target)
                assert there in places.values() or (ROOT / "docs" / there).is_file(), f"{place}: {target}"
    front = site.adapt((ROOT / "README.md").read_text(encoding="utf-8"), ROOT / "README.md", places)
    assert 'src="loop.svg#only-light"' in front
    assert 'src="loop_dark.svg#only-dark"' in front
    assert "<picture>" not in front
    other = site.adapt("[the recipe](../recipes/sft.py) `[no](link.md)`", ROOT / "docs/own.md", places)
    assert other.startswith("the recipe (`recipes/sft.py`)")


def test_the_citation_file_has_the_keys_of_its_format() -> None:
    """Those that CFF 1.2.0 requires, and the types that its schema gives to the ones used."""
    cited = read_yaml(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert (cited["cff-version"], cited["type"], cited["version"]) == ("1.2.0", "software", __version__)
    paper = cited["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert re.fullmatch(r"10\.\d{4,9}/\S+", paper["doi"])
    assert paper["identifiers"][0]["value"] == "arXiv:2410.18693"
    assert isinstance(paper["year"], int)
    assert 1 <= paper["month"] <= 12
    assert paper["conference"]["name"]
    for author in (*cited["authors"], *paper["authors"]):
        assert author.keys() in ({"name"}, {"family-names", "given-names"}), author


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name
)
def test_issue_forms_have_the_keys_of_their_format(path: Path) -> None:
    form = read_yaml(path)
    if path.name == "config.yml":
        assert form.keys() <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= form.keys()
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids)
    for part in form["body"]:
        assert part["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert part["attributes"]["label"]
        assert part["type"] != "dropdown" or part["attributes"]["options"]


def test_a_run_of_judges_is_read_into_its_result_file(tmp_path: Path) -> None:
    demo = script("demo_results")
    known = json.loads((ROOT / "docs/results/judges.json").read_text(encoding="utf-8"))
    tables = {name: known[name] for name in ("solvability", "difficulty", "selection")}
    files = {
        "measure_filters/filters.json": tables,
        "solve_all/config.yaml": {"samples": known["samples"]},
        "solve_seed/config.yaml": {"samples": known["samples_to_learn"]},
        "solve_seed/receipt.json": {"kept": known["solved_to_learn"]},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML, too
    assert demo.read_judges(tmp_path) == known
    assert "| it passes the demo's filters |" in demo.judges(known)
    with pytest.raises(SystemExit, match="not the folder of a finished run"):
        demo.read_judges(tmp_path / "solve_all")
