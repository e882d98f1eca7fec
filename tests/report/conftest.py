"""The fixtures of synthetic run folders."""

from support.run_folders import record, study, write_questions, write_run

__all__ = ["record", "study", "write_questions", "write_run"]
