"""From the finished trials of a comparison to its report."""
