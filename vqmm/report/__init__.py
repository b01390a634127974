"""The HTML page of a run: one file that opens offline."""

from vqmm.report.page import report

__all__ = ["report"]
