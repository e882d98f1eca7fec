"""What is learned from: files in, batches out; every random number is a function of (seed, epoch, example)."""
