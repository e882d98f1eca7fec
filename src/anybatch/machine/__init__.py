"""What this machine can do: the optimizer step against its peers, and what is installed and active."""
