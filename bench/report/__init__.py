"""Figures and tables, from result files alone."""

from profl.bench.report.comparison import write_comparison
from profl.bench.report.tables import closing_table, closing_text
from profl.bench.report.view import View
from profl.bench.report.writing import write_report

__all__ = ["View", "closing_table", "closing_text", "write_comparison", "write_report"]
