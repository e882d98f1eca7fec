"""`python -m anybatch` and `torchrun -m anybatch`."""

from anybatch.cli import main

main()
