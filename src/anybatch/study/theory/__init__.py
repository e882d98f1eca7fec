"""The convergence theorems of the paper, measured where their assumptions hold."""
