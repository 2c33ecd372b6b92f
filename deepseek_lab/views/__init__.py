"""Views of a report that need nothing but the standard library: text, HTML, SVG, JSON and Markdown,
and pages in which a graph or a memory timeline can be explored.
"""

from deepseek_lab.views._bundle import bundle
from deepseek_lab.views._page import explorable, graph_frame
from deepseek_lab.views._save import save
from deepseek_lab.views._svg import graph_svg
from deepseek_lab.views._text import graph_text
from deepseek_lab.views._timeline import packed_timeline, timeline_frame, timeline_page, timeline_text
from deepseek_lab.views._timeline_svg import timeline_svg

__all__ = [
    "bundle",
    "explorable",
    "graph_frame",
    "graph_svg",
    "graph_text",
    "packed_timeline",
    "save",
    "timeline_frame",
    "timeline_page",
    "timeline_svg",
    "timeline_text",
]
