"""Watches the network: whether the endpoint can be reached, and when it can again."""
