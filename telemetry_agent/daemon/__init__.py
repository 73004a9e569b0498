"""Lifecycle: threads, signals, the service manager. Knows nothing of GNSS."""
