"""What this machine can do: the optimizer step against its peers, and what is installed and active."""

from anybatch.machine.bench import Conditions, measure
from anybatch.machine.doctor import examine
from anybatch.machine.shapes import SETS
from anybatch.machine.table import print_tables

__all__ = ["SETS", "Conditions", "examine", "measure", "print_tables"]
