"""From fixes to disk, and from disk to batches that are acknowledged."""
