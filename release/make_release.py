"""Everything that is published of one commit, made twice to check that both are the same.

    python release/make_release.py dist

Wheel, sdist, the Debian packages, their contents (CycloneDX), and SHA256SUMS of all files.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import build_debs
from sbom import sbom
from version import ROOT, commit_time_s, current


def make(out: Path, date_s: int, packages: list[str]) -> dict[str, str]:
    """Build into ``out``. File name -> SHA-256."""
    version = current()
    out.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "hatchling", "build", "-d", str(out.resolve())]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(date_s), "TELEMETRY_AGENT_RELEASE": "1"}
    subprocess.run(argv, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    wheel = out / f"telemetry_agent-{version}-py3-none-any.whl"
    made = [wheel, out / f"telemetry_agent-{version}.tar.gz"]
    made += [build_debs.build(build_debs.PACKAGES[n], wheel, out, date_s) for n in packages]
    inside = out / f"telemetry-agent_{version}.cdx.json"
    inside.write_text(sbom(version, date_s), "utf-8")
    sums = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted([*made, inside])
    }
    lines = [f"{digest}  {name}\n" for name, digest in sums.items()]
    (out / "SHA256SUMS").write_text("".join(lines), "utf-8")
    return sums


def main() -> None:
    """Make it in the named folder, and once more elsewhere."""
    out = Path(sys.argv[1])
    date_s = int(os.environ.get("SOURCE_DATE_EPOCH") or commit_time_s())
    first = make(out, date_s, list(build_debs.PACKAGES))
    with tempfile.TemporaryDirectory() as folder:
        again = make(Path(folder), date_s, list(build_debs.PACKAGES))
    if changed := [name for name in first if first[name] != again[name]]:
        sys.exit(f"made twice and not the same: {', '.join(changed)}")
    print((out / "SHA256SUMS").read_text("utf-8"), end="")


if __name__ == "__main__":
    main()
