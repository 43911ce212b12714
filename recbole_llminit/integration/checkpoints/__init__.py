"""RecBole's checkpoints: saved whole, named apart, checked for damage, and read without running what they hold."""
