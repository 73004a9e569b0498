"""Puts the browser's libraries beside the device page when the package is built or installed.

An installed device needs no Node: the wheel holds the files. Where npm is missing or cannot reach a
registry, the package is made without them, and the page says how to get them.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FILES = {
    "leaflet/dist/leaflet.js": "leaflet.js",
    "leaflet/dist/leaflet.css": "leaflet.css",
    "leaflet/LICENSE": "leaflet.LICENSE",
    "protomaps-leaflet/dist/protomaps-leaflet.js": "protomaps-leaflet.js",
    "uplot/dist/uPlot.iife.min.js": "uPlot.js",
    "uplot/dist/uPlot.min.css": "uPlot.css",
    "uplot/LICENSE": "uPlot.LICENSE",
}
# What is bundled in it is under licences that are to be shown beside it.
_LICENCES = (
    *("protomaps-leaflet/LICENSE", "pmtiles/LICENSE", "fflate/LICENSE", "pbf/LICENSE"),
    *("@mapbox/point-geometry/LICENSE", "@mapbox/vector-tile/LICENSE.txt", "color2k/LICENSE"),
    *("potpack/LICENSE", "rbush/LICENSE", "quickselect/LICENSE", "@protomaps/basemaps/LICENSE"),
)
_NPM_S = 300


class PageLibraries(BuildHookInterface[Any]):
    """The build hook."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """See ``BuildHookInterface``."""
        root = Path(self.root)
        vendor = root / "telemetry_agent/page/static/vendor"
        stamp, wanted = vendor / "versions.json", _versions(root)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        modules = root / "node_modules"
        there = all(_is_there(modules, *package) for package in json.loads(wanted).items())
        fault = None if there else _npm_ci(root)
        if fault is not None:
            self.app.display_warning(f"the device page gets no map and no chart: {fault}")
            return
        vendor.mkdir(exist_ok=True)
        for source, name in _FILES.items():
            shutil.copyfile(modules / source, vendor / name)
        licences = [modules / name for name in _LICENCES if (modules / name).exists()]
        (vendor / "protomaps-leaflet.LICENSE").write_text(
            "\n".join(f"{file.parent.name}\n\n{file.read_text()}" for file in licences)
        )
        stamp.write_text(wanted)


def _versions(root: Path) -> str:
    return json.dumps(json.loads((root / "package.json").read_text())["dependencies"])


def _is_there(modules: Path, name: str, version: str) -> bool:
    package = modules / name / "package.json"
    return package.exists() and json.loads(package.read_text())["version"] == version


def _npm_ci(root: Path) -> str | None:
    """Fetch what package-lock.json names. Returns why that did not work."""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is missing: install Node 20 with npm"
    try:
        done = subprocess.run(  # noqa: S603 - npm, with words of ours
            [npm, "ci", "--omit=dev", "--ignore-scripts", "--loglevel=error"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=_NPM_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"npm ci: {error}"
    return (
        None
        if done.returncode == 0
        else f"npm ci ended with {done.returncode}: {done.stderr[:500]}"
    )
