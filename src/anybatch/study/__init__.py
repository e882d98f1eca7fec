"""What we found: comparisons of optimizers over batch sizes."""
