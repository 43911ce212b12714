"""Writing the values into a built model's user and item tables."""
