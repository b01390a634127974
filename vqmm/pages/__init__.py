"""The HTML page of a run: one file that opens offline."""

from vqmm.pages.page import report

__all__ = ["report"]
