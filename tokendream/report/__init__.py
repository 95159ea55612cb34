"""The report of a run: one self-contained HTML page from what lies in its folder, at any moment of its life."""

from tokendream.report.build import style, write_pictures, write_report

__all__ = ["style", "write_pictures", "write_report"]
