"""Build the docs site from the pages of the repository: `make docs` runs this.

    python scripts/build_docs.py                # writes build/docs/site/index.html; a broken link is an error
    python scripts/build_docs.py --pages_only   # only gathers the pages, without zensical

The site's pages are the Markdown files that GitHub shows, so there is one copy of each. They are gathered in
build/docs/pages, where links between them are adapted, and links to other files of the repository become the
files' names. Codespell looks for misspelt words, and Zensical builds the site in strict mode, in which a
missing page or section is an error. The build needs only requirements/docs.txt, and neither the build nor
the site uses a network.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "docs"
# Pages that lie beside the code that they describe, and their places on the site.
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "bench/README.md": "measurements.md",
    "eval/benchmarks/README.md": "benchmarks.md",
    "recipes/README.md": "recipes.md",
    "recipes/paper/README.md": "experiments.md",
    "recipes/proof/README.md": "proof.md",
    "recipes/smollm2_135m/README.md": "smollm2.md",
    "recipes/tiny/models/README.md": "tiny_models.md",
}
PICTURES = (".png", ".svg")
LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)\)")
PICTURE = re.compile(r"(?P<before>!\[[^\]]*\]\(|\b(?:src|srcset)=\")(?P<target>[^()\s\"]+)(?P<after>[)\"])")
# A site has its own switch between light and dark, which `prefers-color-scheme` does not see.
PICTURES_OF_BOTH = re.compile(
    r"<picture>\s*<source media=\"\(prefers-color-scheme: dark\)\" srcset=\"(?P<dark>[^\"]+)\">\s*"
    r"<img (?P<more>[^>]*)src=\"(?P<light>[^\"]+)\">\s*</picture>"
)


def pages() -> dict[Path, str]:
    """Return the files that are pages, with their places on the site."""
    own = {path: path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    return {ROOT / path: place for path, place in ELSEWHERE.items()} | own


def adapt(text: str, page: Path, places: dict[Path, str]) -> str:
    """Return a page's text with links that lead to the same pages on the site.

    Args:
        text: Markdown.
        page: the file that it is from.
        places: all pages, with their places on the site.
    """
    here = Path(places[page]).parent

    def link(found: re.Match[str]) -> str:
        target, hash_, section = found["target"].partition("#")
        if not target or ":" in target:
            return found[0]
        file = Path(os.path.normpath(page.parent / target))
        if file in places:
            return f"[{found['text']}]({os.path.relpath(places[file], here)}{hash_}{section})"
        if not file.exists():
            return found[0]  # zensical reports it
        name = file.relative_to(ROOT).as_posix()
        named = found["text"].strip("`") in (name, file.name, file.stem) or found["text"].startswith("`")
        return found["text"] if named else f"{found['text']} (`{name}`)"

    def picture(found: re.Match[str]) -> str:
        if ":" in found["target"]:
            return found[0]
        file = Path(os.path.normpath(page.parent / found["target"])).relative_to(ROOT / "docs")
        return f"{found['before']}{os.path.relpath(file, here)}{found['after']}"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)  # code is left as it is
    parts[::2] = [PICTURE.sub(picture, LINK.sub(link, part)) for part in parts[::2]]
    return PICTURES_OF_BOTH.sub(
        r'<img \g<more>src="\g<light>#only-light"><img \g<more>src="\g<dark>#only-dark">', "".join(parts)
    )


def gather() -> None:
    """Write all pages and pictures to build/docs/pages."""
    shutil.rmtree(BUILD / "pages", ignore_errors=True)
    places = pages()
    for page, place in places.items():
        target = BUILD / "pages" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(adapt(page.read_text(encoding="utf-8"), page, places), encoding="utf-8")
    for file in (ROOT / "docs").rglob("*"):
        if file.suffix in (*PICTURES, ".css"):
            target = BUILD / "pages" / file.relative_to(ROOT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


def configure() -> None:
    """Write build/docs/zensical.toml: docs/zensical.toml with the pages of settings in its navigation."""
    folder = ROOT / "docs" / "settings"
    linked = re.findall(
        r"^\| \[([^\]]+)\]\((\w+\.md)\)", (folder / "index.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    entries = [("All settings", "index.md"), *linked]
    text = (ROOT / "docs" / "zensical.toml").read_text(encoding="utf-8")
    nav = ", ".join(f'{{"{title}" = "settings/{file}"}}' for title, file in entries)
    (BUILD / "zensical.toml").write_text(text.replace('["settings"]', f"[{nav}]"), encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--pages_only", action="store_true", help="do not build the site")
    return made


def main(asked: argparse.Namespace) -> int:
    """Gather the pages and build the site; return the exit status."""
    gather()
    configure()
    if asked.pages_only:
        return 0
    words = ROOT / "docs" / "words.txt"
    spelling = [sys.executable, "-m", "codespell_lib", "--ignore-words", str(words), str(BUILD / "pages")]
    if subprocess.run(spelling, cwd=BUILD).returncode:
        print("correct the words above, or add those that are right to docs/words.txt")
        return 1
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=BUILD, capture_output=True, text=True)
    said = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr).partition("Traceback")[0]
    print(said.strip())
    if done.returncode == 0:
        print(f"written to {(BUILD / 'site' / 'index.html').relative_to(ROOT)}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
