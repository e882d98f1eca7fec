"""Comparisons of runs: rows read from run folders or a study, their statistics, and the findings."""
