"""Builds the Debian packages from a wheel: one for Debian 13, three for Debian 12.

    python release/build_debs.py dist/telemetry_agent-….whl dist [trixie amd64 arm64 armhf]

Debian 13 has every library that the agent needs, so its package is for all architectures. Debian 12
is too old: its packages contain the libraries of release/bundled.txt in a virtual environment. It
is made from wheels of the right platform, without an emulator. ``~bookworm`` in their version lets
the package of Debian 13 replace them in a release upgrade.

The same wheel and date (SOURCE_DATE_EPOCH, else the newest commit's) give the same bytes.
"""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from email.utils import formatdate
from pathlib import Path
from typing import Any

import manual
from version import ROOT, commit_time_s

NAME = "telemetry-agent"
_HERE = Path(__file__).resolve().parent
_VENV = f"usr/lib/{NAME}"
_SITE = f"{_VENV}/lib/python3.11/site-packages"
_DIST = "usr/lib/python3/dist-packages"

BUNDLED = {"amd64": "x86_64", "arm64": "aarch64", "armhf": "armv7l"}
"""Debian's name of an architecture -> that of the wheels."""

# For the C library of Debian 12, which is 2.36, and older ones.
_PLATFORMS = ("manylinux_2_34", "manylinux_2_31", "manylinux_2_28", "manylinux_2_17")

_DESCRIPTION = """\
records GNSS positions and delivers every one of them
 A daemon that reads a GNSS receiver, puts every position on disk and delivers
 each one to an HTTP endpoint, through dead spots, reboots and power cuts:
 Traccar, Dawarich, OwnTracks, InfluxDB, ClickHouse or one of your own."""


@dataclass(frozen=True)
class Package:
    """The differences between the packages."""

    release: str
    architecture: str
    depends: str
    suffix: str
    compile: str
    """The arguments of py3compile."""
    shebang: str

    def version(self, upstream: str) -> str:
        """Its version in Debian's form."""
        return upstream + self.suffix

    def file_name(self, upstream: str) -> str:
        """The file name of the package, in a folder with all of them."""
        return f"{NAME}_{self.version(upstream)}_{self.architecture}.deb"


_COMMON = "systemd, ca-certificates"
TRIXIE = Package(
    "trixie",
    "all",
    "python3 (>= 3.13), python3-click (>= 8.1), python3-h11 (>= 0.14), python3-httpx (>= 0.28), "
    "python3-nmea2 (>= 1.19), python3-prometheus-client (>= 0.21), python3-pydantic (>= 2.10), "
    "python3-pydantic-settings (>= 2.8), python3-rich (>= 13.9), python3-serial (>= 3.5), "
    "python3-starlette (>= 0.46), python3-tenacity (>= 8.4), python3-uvicorn (>= 0.32), " + _COMMON,
    "",
    "",
    "/usr/bin/python3 -sP",
)


def bookworm(architecture: str) -> Package:
    """The package for Debian 12 on ``architecture``."""
    return Package(
        "bookworm",
        architecture,
        # In a release upgrade Python 3.11 stays until it is removed by hand, so the agent works.
        "python3 (>= 3.11), python3 (<< 3.12), python3.11, libc6 (>= 2.34), libgcc-s1 (>= 3.5), "
        + _COMMON,
        "~bookworm",
        f"/{_VENV} -V 3.11",
        f"/{_VENV}/bin/python3 -sP",
    )


PACKAGES = {"trixie": TRIXIE} | {name: bookworm(name) for name in BUNDLED}


def build(package: Package, wheel: Path, out: Path, date_s: int) -> Path:
    """Build one package; returns its file."""
    upstream = wheel.name.split("-")[1]
    with tempfile.TemporaryDirectory(prefix="deb-") as folder:
        root = Path(folder, "root")
        site = root / (_DIST if package.release == "trixie" else _SITE)
        site.mkdir(parents=True)
        metadata = [_unpack(wheel, site)]
        if package.release == "bookworm":
            metadata += [_unpack(one, site) for one in download(package.architecture)]
            _make_venv(root)
        _add_files(root, package, upstream, date_s, metadata)
        _add_control(root, package, upstream)
        _settle(root, date_s)
        deb = out / package.file_name(upstream)
        out.mkdir(parents=True, exist_ok=True)
        argv = ["dpkg-deb", "--root-owner-group", "-Zxz", "--threads-max=1", "--build"]
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(date_s)}
        subprocess.run(
            [*argv, str(root), str(deb)], env=environment, check=True, stdout=subprocess.DEVNULL
        )
    return deb


def download(architecture: str) -> list[Path]:
    """The wheels of release/bundled.txt for ``architecture``; they are kept in build/."""
    folder = ROOT / "build" / "wheels" / architecture
    machine = BUNDLED[architecture]
    wanted = (_HERE / "bundled.txt").read_text("utf-8")
    stamp = folder / "complete"
    if not stamp.exists() or stamp.read_text("utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={folder}"]
        argv += ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11"]
        argv += ["--abi=cp311", "--abi=abi3", "--abi=none"]
        argv += [f"--platform={platform}_{machine}" for platform in _PLATFORMS]
        subprocess.run([*argv, "-r", str(_HERE / "bundled.txt")], check=True)
        stamp.write_text(wanted, "utf-8")
    return sorted(folder.glob("*.whl"))


def metadata_of(wheel: Path) -> Message:
    """The metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode("utf-8"))


def licence_of(metadata: Message) -> str:
    """The licence that a wheel names, in one of three ways."""
    said = metadata["License-Expression"] or metadata["License"]
    if said and "\n" not in said:
        return str(said)
    prefix = "License :: OSI Approved :: "
    named = [c for c in metadata.get_all("Classifier", []) if c.startswith(prefix)]
    if not named:
        raise ValueError(f"{metadata['Name']} names no licence")
    return str(named[0].removeprefix(prefix))


def _unpack(wheel: Path, site: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            head, _, below = name.partition(".data/")
            if not below:
                archive.extract(name, site)
            elif head and below.startswith("purelib/"):
                raise ValueError(f"{wheel.name} has files that only pip can place: {name}")
    for info in site.glob("*.dist-info"):
        (info / "RECORD").unlink(missing_ok=True)  # pip's list of what it may delete
        (info / "INSTALLER").write_text("dpkg\n", "utf-8")
    return metadata_of(wheel)


def _make_venv(root: Path) -> None:
    """Make it by hand: it must belong to the machine where it is installed, not to this one."""
    (root / _VENV / "bin").mkdir()
    (root / _VENV / "bin/python3").symlink_to("../../../bin/python3.11")
    (root / _VENV / "pyvenv.cfg").write_text(
        "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n", "utf-8"
    )


def _add_files(
    root: Path, package: Package, upstream: str, date_s: int, metadata: list[Message]
) -> None:
    for source, target in (
        ("systemd/telemetry-agent.service", "usr/lib/systemd/system/telemetry-agent.service"),
        ("systemd/sysusers.d/telemetry-agent.conf", "usr/lib/sysusers.d/telemetry-agent.conf"),
        ("systemd/tmpfiles.d/telemetry-agent.conf", "usr/lib/tmpfiles.d/telemetry-agent.conf"),
        ("config.example.toml", f"usr/share/doc/{NAME}/examples/config.toml"),
        (f"release/debian/overrides.{package.release}", f"usr/share/lintian/overrides/{NAME}"),
    ):
        _write(root, target, (ROOT / source).read_text("utf-8"))
    _write(
        root,
        f"usr/bin/{NAME}",
        f"#!{package.shebang}\nfrom telemetry_agent.cli import main\n\nmain()\n",
        mode=0o755,
    )
    for name, text in manual.pages(upstream, date_s):
        _write_packed(root, f"usr/share/man/man1/{name}.gz", text)
    for path, text in manual.completions().items():
        _write(root, path, text)
    doc = f"usr/share/doc/{NAME}"
    _write_packed(root, f"{doc}/changelog.gz", _changelog(package, upstream, date_s))
    _write_packed(root, f"{doc}/NEWS.gz", (ROOT / "CHANGELOG.md").read_text("utf-8"))
    for page in sorted((ROOT / "docs").glob("*.md")):
        _write_packed(root, f"{doc}/docs/{page.name}.gz", page.read_text("utf-8"))
    _write(root, f"{doc}/copyright", _copyright(metadata))


def _changelog(package: Package, upstream: str, date_s: int) -> str:
    return (
        f"{NAME} ({package.version(upstream)}) {package.release}; urgency=medium\n\n"
        f"  * What changed is in /usr/share/doc/{NAME}/NEWS.gz.\n\n"
        f" -- {_MAINTAINER}  {formatdate(date_s)}\n"
    )


# Whoever publishes packages gives a name as Debian's tools expect it.
_MAINTAINER = (
    f"{os.environ.get('DEBFULLNAME', 'The telemetry-agent authors')} "
    f"<{os.environ.get('DEBEMAIL', 'telemetry-agent@localhost')}>"
)


def page_libraries() -> Iterator[dict[str, Any]]:
    """The browser's libraries of the device page, from package-lock.json."""
    wanted = json.loads((ROOT / "package.json").read_text("utf-8"))["dependencies"]
    locked = json.loads((ROOT / "package-lock.json").read_text("utf-8"))["packages"]
    for name in sorted(wanted):
        yield {"name": name, **locked[f"node_modules/{name}"]}


def _copyright(metadata: list[Message]) -> str:
    """The licence text of each part is beside it."""
    lines = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/",
        f"Upstream-Name: {NAME}",
        "",
        "Files: *",
        "Copyright: 2025-2026 the telemetry-agent authors",
        "License: Apache-2.0",
        " On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0.",
    ]
    for library in page_libraries():
        lines += [
            "",
            f"Files: *static/vendor/{library['name']}*",
            f"Copyright: the authors of {library['name']}",
            f"License: {library['license']}",
            " The full text is beside its files, in static/vendor of the device page.",
        ]
    for one in metadata[1:]:
        place = one["Name"].replace("-", "_")
        lines += [
            "",
            f"Files: {_SITE}/{place}*",
            f"Copyright: {one['Author'] or one['Author-email'] or 'the authors of ' + one['Name']}",
            f"License: {licence_of(one)}",
            f" The full text is in /{_SITE}/*.dist-info",
        ]
    return "\n".join(lines) + "\n"


def _add_control(root: Path, package: Package, upstream: str) -> None:
    size_kb = sum(-(-path.lstat().st_size // 1024) for path in root.rglob("*"))
    control = {
        "Package": NAME,
        "Version": package.version(upstream),
        "Architecture": package.architecture,
        "Maintainer": _MAINTAINER,
        "Installed-Size": str(size_kb),
        "Pre-Depends": "init-system-helpers (>= 1.54~)",
        "Depends": package.depends,
        "Section": "net",
        "Priority": "optional",
        "Description": _DESCRIPTION,
    }
    _write(root, "DEBIAN/control", _fields(control))
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  "
        f"{path.relative_to(root)}\n"
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink() and "DEBIAN" not in path.parts
    ]
    _write(root, "DEBIAN/md5sums", "".join(sums))
    for script in ("preinst", "postinst", "prerm", "postrm"):
        source = _HERE / "debian" / script
        for_this = source.with_name(f"{script}.{package.architecture}")
        if (chosen := for_this if for_this.exists() else source).exists():
            text = chosen.read_text("utf-8").replace("@COMPILE@", package.compile)
            _write(root, f"DEBIAN/{script}", text, mode=0o755)


def _fields(fields: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in fields.items())


def _write(root: Path, target: str, text: str, mode: int = 0o644) -> None:
    path = root / target
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(mode)


def _write_packed(root: Path, target: str, text: str) -> None:
    path = root / target
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode("utf-8"), 9, mtime=0))


def _settle(root: Path, date_s: int) -> None:
    """Set one date and plain modes for everything, whatever the umask is."""
    for path in (root, *sorted(root.rglob("*"))):
        if not path.is_symlink():
            runs = bool({"bin", "DEBIAN"} & set(path.parts)) and bool(path.stat().st_mode & 0o100)
            path.chmod(0o755 if path.is_dir() or runs else 0o644)
        os.utime(path, (date_s, date_s), follow_symlinks=False)


def main() -> None:
    """Build the packages that the command line names; all if it names none."""
    wheel, out, *names = sys.argv[1:]
    date_s = int(os.environ.get("SOURCE_DATE_EPOCH") or commit_time_s())
    for name in names or PACKAGES:
        print(build(PACKAGES[name], Path(wheel), Path(out), date_s))


if __name__ == "__main__":
    main()
