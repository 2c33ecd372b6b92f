"""Views of a report that need nothing but the standard library: text, HTML, SVG, JSON and Markdown,
and pages in which a graph can be explored.
"""

from deepseek_lab.views._bundle import bundle
from deepseek_lab.views._page import explorable, graph_frame
from deepseek_lab.views._run import run_bundle
from deepseek_lab.views._save import save
from deepseek_lab.views._svg import graph_svg
from deepseek_lab.views._text import graph_text

__all__ = ["bundle", "explorable", "graph_frame", "graph_svg", "graph_text", "run_bundle", "save"]
