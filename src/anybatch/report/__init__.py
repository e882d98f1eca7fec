"""What to look at: a comparison in, one self-contained HTML page out."""

from anybatch.report.page import write_report, write_study

__all__ = ["write_report", "write_study"]
