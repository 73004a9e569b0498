"""From batches to the endpoint, and its answers to outcomes."""
