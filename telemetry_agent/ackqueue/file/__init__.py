"""The queue's file: rows, tables, the lock, and who writes."""
