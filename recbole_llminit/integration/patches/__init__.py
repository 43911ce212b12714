"""What RecBole 1.2.1 needs in the running process: patches, and the one way in which they are applied."""
