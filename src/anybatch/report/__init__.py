"""What to look at: run folders in, one self-contained HTML page out."""

from anybatch.report.page import write_report

__all__ = ["write_report"]
