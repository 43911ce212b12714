"""Comparisons of starts: trials, statistics, strata, and the report."""
