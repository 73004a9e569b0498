"""The wire formats: one module each, Batch -> Payload and Answer -> Outcome."""
