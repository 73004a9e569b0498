"""What a field engineer would check, in the order of the data's path."""
