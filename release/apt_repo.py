"""A repository for apt, made of the packages of a release: plain files, for any web server.

    python release/apt_repo.py dist repository KEY

KEY names a secret key of gpg that the user has made; the public key is put beside the packages.
docs/install.md says how a device uses it.
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from email.utils import formatdate
from pathlib import Path

from build_debs import BUNDLED, NAME
from version import commit_time_s

_SUITES = ("trixie", "bookworm")


def make(debs: Iterable[Path], out: Path, key: str, date_s: int) -> None:
    """Write the repository into ``out``, which may contain one with older packages."""
    pool = out / "pool" / "main"
    pool.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        shutil.copyfile(deb, pool / deb.name)
    entries = [(deb, *_described(deb, out)) for deb in sorted(pool.glob("*.deb"))]
    for suite in _SUITES:
        of_suite = [e for e in entries if ("~bookworm" in e[0].name) == (suite == "bookworm")]
        folder = out / "dists" / suite
        for architecture in BUNDLED:
            text = "\n".join(said for _, of, said in of_suite if of in {architecture, "all"})
            place = folder / "main" / f"binary-{architecture}"
            place.mkdir(parents=True, exist_ok=True)
            (place / "Packages").write_text(text, "utf-8")
            (place / "Packages.gz").write_bytes(gzip.compress(text.encode("utf-8"), 9, mtime=0))
        _sign(folder, _release(folder, suite, date_s), key)
    public = ["gpg", "--batch", "--yes", "--output", str(out / f"{NAME}.gpg"), "--export", key]
    subprocess.run(public, check=True)


def _described(deb: Path, out: Path) -> tuple[str, str]:
    """Its architecture, and its entry in ``Packages``."""
    argv = ["dpkg-deb", "--field", str(deb)]
    control = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    fields = dict(line.split(": ", 1) for line in control.splitlines() if line[:1].isalpha())
    content = deb.read_bytes()
    said = (
        f"{control.rstrip()}\n"
        f"Filename: {deb.relative_to(out)}\n"
        f"Size: {len(content)}\n"
        f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
    )
    return fields["Architecture"], said


def _release(folder: Path, suite: str, date_s: int) -> str:
    lines = [
        f"Origin: {NAME}",
        f"Label: {NAME}",
        f"Suite: {suite}",
        f"Codename: {suite}",
        f"Date: {formatdate(date_s, usegmt=True)}",
        f"Architectures: {' '.join(BUNDLED)}",
        "Components: main",
        "SHA256:",
    ]
    for path in sorted((folder / "main").rglob("Packages*")):
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        lines.append(f" {digest} {len(content)} {path.relative_to(folder)}")
    return "\n".join(lines) + "\n"


def _sign(folder: Path, release: str, key: str) -> None:
    (folder / "Release").write_text(release, "utf-8")
    for how, name in (("--clearsign", "InRelease"), ("--detach-sign", "Release.gpg")):
        argv = ["gpg", "--batch", "--yes", "--local-user", key, "--armor"]
        argv += ["--output", str(folder / name), how, str(folder / "Release")]
        subprocess.run(argv, check=True)


def main() -> None:
    """Make it from the packages in a folder."""
    debs, out, key = sys.argv[1:]
    date_s = int(os.environ.get("SOURCE_DATE_EPOCH") or commit_time_s())
    make(sorted(Path(debs).glob("*.deb")), Path(out), key, date_s)
    print(f"{out}: copy it to a web server; {NAME}.gpg is the public key")


if __name__ == "__main__":
    main()
