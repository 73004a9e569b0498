"""telemetry-agent records GNSS positions on a device and delivers every one of them."""

RELEASE = "0.9.0"
"""The newest release. The commit that changes this line is that release: release/version.py."""

try:
    # Written when a wheel is built, with the commit in it where it is not a release.
    from telemetry_agent._built import __version__ as _built_version
except ImportError:
    _built_version = f"{RELEASE}+checkout"

__version__: str = _built_version
