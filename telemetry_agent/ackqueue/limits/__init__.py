"""How much of the disk the queue may use, and what it gives up first."""
