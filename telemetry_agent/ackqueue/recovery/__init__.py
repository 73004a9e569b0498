"""What happens to a damaged queue file."""
