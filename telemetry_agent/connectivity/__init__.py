"""Is there a way to the endpoint, and when does it come back."""
