"""The convergence theorems of the paper, measured under their assumptions."""
