"""The wheel contains the libraries of the page, so that a device does not need Node."""

import subprocess
import sys
import zipfile
from pathlib import Path

from browsing import require_browser
from processes import ROOT

LIBRARIES = {
    "leaflet.js": "leaflet/dist/leaflet.js",
    "leaflet.css": "leaflet/dist/leaflet.css",
    "leaflet.LICENSE": "leaflet/LICENSE",
    "protomaps-leaflet.js": "protomaps-leaflet/dist/protomaps-leaflet.js",
    "uPlot.js": "uplot/dist/uPlot.iife.min.js",
    "uPlot.css": "uplot/dist/uPlot.min.css",
    "uPlot.LICENSE": "uplot/LICENSE",
}
LICENCES = "protomaps-leaflet.LICENSE"
STATIC = "telemetry_agent/page/static/"


def test_a_wheel_holds_the_page_and_its_libraries(tmp_path: Path) -> None:
    require_browser()
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*build, tmp_path, ROOT], check=True, timeout=120)
    (file,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        names = {name.removeprefix(STATIC) for name in wheel.namelist() if STATIC in name}
        for name, source in LIBRARIES.items():
            assert (
                wheel.read(f"{STATIC}vendor/{name}")
                == (ROOT / "node_modules" / source).read_bytes()
            )
        for made_by in ("Protomaps LLC", "Mapbox", "Arjun Barrett"):
            assert made_by in wheel.read(f"{STATIC}vendor/{LICENCES}").decode()
    ours = {path.name for path in (ROOT / STATIC).iterdir() if path.is_file()}
    assert names == ours | {f"vendor/{name}" for name in (*LIBRARIES, "versions.json", LICENCES)}
