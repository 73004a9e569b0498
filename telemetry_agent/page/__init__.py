"""The device page and the metrics."""
