"""Turns a comparison into one self-contained HTML page."""

from anybatch.report.page import write_report, write_study

__all__ = ["write_report", "write_study"]
