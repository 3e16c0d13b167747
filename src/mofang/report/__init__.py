"""A job's events as one self-contained HTML file and its pictures."""

from mofang.report.write import write_report

__all__ = ["write_report"]
