"""Reports and graphs out as ordinary code that needs nothing of ours at run time."""

from deepseek_lab.export._write import ExportRecord, write

__all__ = ["ExportRecord", "write"]
