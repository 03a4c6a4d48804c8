"""One self-contained HTML page of a run: opens offline, reads aloud, fits a phone."""

from profl.bench.report.page.writing import write_page

__all__ = ["write_page"]
