"""What is written for people to copy: commands, links, pins."""

from __future__ import annotations

import ast
import configparser
import re
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scalequest import __version__
from scalequest.config import read_yaml

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
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


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
        }  # what a run writes, and pages beside the file
        assert (ROOT / name).exists() or Path(name).name in written, f"there is no page {name}"
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
