"""telemetry-agent records GNSS positions on a device and delivers every one of them."""

RELEASE = "0.1.0"
"""The newest release. The commit that changes this line is that release: release/version.py."""

try:
    # Written when a wheel is built, with the commit in it where it is not a release.
    from telemetry_agent import _built
except ImportError:
    __version__ = f"{RELEASE}+checkout"
else:
    __version__ = _built.__version__
