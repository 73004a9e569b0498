"""The version of a build, from the one place that has it: RELEASE in telemetry_agent/__init__.py.

The commit that changes RELEASE is that release. A build of a later commit is
``1.0.0.post12+g0a1b2c3``: the commit, and that it is 12 commits later. Uncommitted changes add
``.dirty``. An sdist has no history, and its version is in PKG-INFO. A shallow clone has none
either: its build is ``1.0.0+g0a1b2c3``. If git is missing or refuses, it is ``1.0.0+unknown``.
"""

import re
import subprocess
from email.parser import HeaderParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SOURCE = "telemetry_agent/__init__.py"


def current(root: Path = ROOT) -> str:
    """The version of the files in ``root``."""
    sdist = root / "PKG-INFO"
    if sdist.exists():
        return str(HeaderParser().parsestr(sdist.read_text("utf-8"))["Version"])
    found = re.search(r'^RELEASE = "([0-9.]+)"$', (root / _SOURCE).read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f'{_SOURCE} has no line RELEASE = "…"')
    release = found[1]
    try:
        return _of_commit(root, release) if (root / ".git").exists() else f"{release}+unknown"
    except (OSError, subprocess.CalledProcessError):
        return f"{release}+unknown"


def _of_commit(root: Path, release: str) -> str:
    commit = _git(root, "rev-parse", "--short=10", "HEAD")
    if _git(root, "rev-parse", "--is-shallow-repository") == "true":
        return f"{release}+g{commit}"
    released = _git(root, "log", "-1", "--format=%H", "-G", "^RELEASE = ", "--", _SOURCE)
    later = int(_git(root, "rev-list", "--count", f"{released}..HEAD")) if released else 0
    dirty = _git(root, "status", "--porcelain", "--untracked-files=no") != ""
    if released and not later and not dirty:
        return release
    return f"{release}.post{later}+g{commit}{'.dirty' if dirty else ''}"


def commit_time_s(root: Path = ROOT) -> int:
    """The time of the newest commit, which is the date of everything that is built from it."""
    return int(_git(root, "log", "-1", "--format=%ct"))


def _git(root: Path, *arguments: str) -> str:
    # A builder may be root in the checkout of another user.
    argv = ["git", "-c", f"safe.directory={root}", "-C", str(root), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    print(current())
