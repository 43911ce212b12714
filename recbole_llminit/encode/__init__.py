"""From item texts to item vectors."""
