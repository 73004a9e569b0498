"""Makes a build complete: adds the browser's libraries to the device page, and the version.

An installed device needs no Node: the wheel and the sdist contain the libraries. If they are
missing and npm cannot fetch them, an installation from a checkout continues without a map and a
chart, and the page says how to get them. A release (TELEMETRY_AGENT_RELEASE is set) fails.
"""

import json
import os
import shutil
import subprocess
import tempfile
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
# The bundled libraries have licences that must be shown beside them.
_LICENCES = (
    *("protomaps-leaflet/LICENSE", "pmtiles/LICENSE", "fflate/LICENSE", "pbf/LICENSE"),
    *("@mapbox/point-geometry/LICENSE", "@mapbox/vector-tile/LICENSE.txt", "color2k/LICENSE"),
    *("potpack/LICENSE", "rbush/LICENSE", "quickselect/LICENSE", "@protomaps/basemaps/LICENSE"),
)
_NPM_S = 300


class Complete(BuildHookInterface[Any]):
    """The build hook."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See ``BuildHookInterface``."""
        fault = _bring_libraries(Path(self.root))
        if fault is not None and os.environ.get("TELEMETRY_AGENT_RELEASE"):
            self.app.abort(f"a release needs the libraries of the device page: {fault}")
        if fault is not None:
            self.app.display_warning(f"the device page gets no map and no chart: {fault}")
        if self.target_name == "wheel" and version != "editable":
            self._folder = Path(tempfile.mkdtemp(prefix="telemetry-agent-build-"))
            built = self._folder / "_built.py"
            text = f'"""Written by hatch_build.py."""\n\n__version__ = "{self.metadata.version}"\n'
            built.write_text(text, "utf-8")
            build_data["force_include"][str(built)] = "telemetry_agent/_built.py"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """See ``BuildHookInterface``."""
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder)


def _bring_libraries(root: Path) -> str | None:
    """Put the libraries where the page looks for them. Returns why that did not work."""
    vendor = root / "telemetry_agent/page/static/vendor"
    stamp, wanted = vendor / "versions.json", _versions(root)
    if stamp.exists() and stamp.read_text() == wanted:
        return None
    modules = root / "node_modules"
    there = all(_is_there(modules, *package) for package in json.loads(wanted).items())
    fault = None if there else _npm_ci(root)
    if fault is not None:
        return fault
    vendor.mkdir(exist_ok=True)
    for source, name in _FILES.items():
        shutil.copyfile(modules / source, vendor / name)
    licences = [modules / name for name in _LICENCES if (modules / name).exists()]
    (vendor / "protomaps-leaflet.LICENSE").write_text(
        "\n".join(f"{file.parent.name}\n\n{file.read_text()}" for file in licences)
    )
    stamp.write_text(wanted)
    return None


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
