"""telemetry-agent records GNSS positions on a device and delivers every one of them."""

__version__ = "0.1.0"
