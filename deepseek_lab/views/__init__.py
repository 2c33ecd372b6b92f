"""Views of a report that need nothing but the standard library: text, HTML, SVG, JSON and Markdown,
and pages in which a graph can be explored.
"""

from deepseek_lab.views._bundle import bundle
from deepseek_lab.views._heatmap_view import HeatmapView
from deepseek_lab.views._lines_view import LinesView
from deepseek_lab.views._page import explorable, graph_frame
from deepseek_lab.views._save import save
from deepseek_lab.views._scatter_view import ScatterView
from deepseek_lab.views._svg import graph_svg
from deepseek_lab.views._table_view import TableView
from deepseek_lab.views._text import graph_text

__all__ = [
    "HeatmapView",
    "LinesView",
    "ScatterView",
    "TableView",
    "bundle",
    "explorable",
    "graph_frame",
    "graph_svg",
    "graph_text",
    "save",
]
