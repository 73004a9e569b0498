"""The systemd unit of the service, by its files: no command of systemd is run.

``root`` is the folder that stands for ``/``.
"""

import os
from pathlib import Path

from telemetry_agent.small_files import text_of

UNIT = "telemetry-agent.service"
_FOLDERS = [f"{at}/systemd/system" for at in ("etc", "run", "usr/local/lib", "usr/lib")]
_ROOT = Path("/")


def unit_file(root: Path = _ROOT) -> Path | None:
    """The file of the service's unit that systemd uses; ``None``: it is not installed."""
    places = (root / folder / UNIT for folder in _FOLDERS)
    return next((place for place in places if place.exists()), None)


def is_masked(root: Path = _ROOT) -> bool:
    """Whether ``systemctl mask`` keeps systemd from starting the service."""
    unit = unit_file(root)
    return unit is not None and unit.resolve() == Path(os.devnull)


def switch_on(root: Path = _ROOT) -> str:
    """The command that starts the service, now and at each boot."""
    if not is_masked(root):
        return "`sudo systemctl enable --now telemetry-agent`"
    how = " --runtime" if (root / "run") in (unit_file(root) or root).parents else ""
    return (
        f"`sudo systemctl unmask{how} telemetry-agent && "
        "sudo systemctl enable --now telemetry-agent`"
    )


def starts_at_boot(root: Path = _ROOT) -> bool:
    """Whether systemd starts the service at boot."""
    return not is_masked(root) and any(root.glob(f"{_FOLDERS[0]}/*.wants/{UNIT}"))


def is_unit_of(pid: int, root: Path = _ROOT) -> bool:
    """Whether the process runs as the service."""
    return text_of(root / f"proc/{pid}/cgroup").endswith(f"/{UNIT}")
