"""What learns: thin builders over transformers, and the loss only on the positions that carry a target."""
