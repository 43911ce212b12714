"""RecBole: its configuration, models, runs, checkpoints, and the patches it needs today."""
