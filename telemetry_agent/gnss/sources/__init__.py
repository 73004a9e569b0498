"""Where a receiver's bytes come from."""
