"""Item vectors: what they are, the store that keeps them, and the readers of people's own files."""
