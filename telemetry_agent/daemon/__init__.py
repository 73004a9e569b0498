"""The running agent: its parts and threads, its signals, and its answers to commands."""
