"""Views of reports and runs that need nothing but the standard library: text, HTML, SVG, JSON and Markdown, pages in
which a graph or a memory timeline can be explored, and what a page is told while a run goes on.

What draws is imported when something is drawn: loading the extension needs only :mod:`deepseek_lab.views.live`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek_lab.views._accumulation import batch_text
    from deepseek_lab.views._bundle import bundle
    from deepseek_lab.views._costs import costs_bundle, costs_html, costs_line, costs_text, costs_views
    from deepseek_lab.views._devices import devices_html, devices_line, devices_text
    from deepseek_lab.views._heatmap_view import HeatmapView
    from deepseek_lab.views._inspect import (
        inspection_bundle,
        inspection_html,
        inspection_line,
        inspection_overlays,
        inspection_text,
        inspection_views,
        live_text,
    )
    from deepseek_lab.views._limits import limits_html, limits_line, limits_text
    from deepseek_lab.views._lines_view import LinesView
    from deepseek_lab.views._memory_plan import memory_plan_html, memory_plan_line, memory_plan_text
    from deepseek_lab.views._overlays import Overlay
    from deepseek_lab.views._page import explorable, graph_frame
    from deepseek_lab.views._profile import profile_overlays, profile_text
    from deepseek_lab.views._ranks import failure_text, ranks_html, ranks_text
    from deepseek_lab.views._run import run_bundle
    from deepseek_lab.views._save import save
    from deepseek_lab.views._scaling import scaling_html, scaling_line, scaling_text
    from deepseek_lab.views._scatter_view import ScatterView
    from deepseek_lab.views._search import search_bundle, search_html, search_text
    from deepseek_lab.views._search_line import search_line
    from deepseek_lab.views._svg import graph_svg
    from deepseek_lab.views._table_view import TableView
    from deepseek_lab.views._text import graph_text
    from deepseek_lab.views._timeline import packed_timeline, timeline_frame, timeline_page, timeline_text
    from deepseek_lab.views._timeline_svg import timeline_svg
    from deepseek_lab.views._vitals import FIGURES, vitals_figures, vitals_line
    from deepseek_lab.views._widget import LiveWidget, live_widget

_PLACES = {
    "HeatmapView": "_heatmap_view",
    "LinesView": "_lines_view",
    "LiveWidget": "_widget",
    "Overlay": "_overlays",
    "ScatterView": "_scatter_view",
    "TableView": "_table_view",
    "batch_text": "_accumulation",
    "bundle": "_bundle",
    "costs_bundle": "_costs",
    "costs_html": "_costs",
    "costs_line": "_costs",
    "costs_text": "_costs",
    "costs_views": "_costs",
    "devices_html": "_devices",
    "devices_line": "_devices",
    "devices_text": "_devices",
    "explorable": "_page",
    "failure_text": "_ranks",
    "graph_frame": "_page",
    "graph_svg": "_svg",
    "graph_text": "_text",
    "inspection_bundle": "_inspect",
    "inspection_html": "_inspect",
    "inspection_line": "_inspect",
    "inspection_overlays": "_inspect",
    "inspection_text": "_inspect",
    "inspection_views": "_inspect",
    "limits_html": "_limits",
    "limits_line": "_limits",
    "limits_text": "_limits",
    "live_text": "_inspect",
    "live_widget": "_widget",
    "memory_plan_html": "_memory_plan",
    "memory_plan_line": "_memory_plan",
    "memory_plan_text": "_memory_plan",
    "packed_timeline": "_timeline",
    "profile_overlays": "_profile",
    "profile_text": "_profile",
    "ranks_html": "_ranks",
    "ranks_text": "_ranks",
    "run_bundle": "_run",
    "save": "_save",
    "scaling_html": "_scaling",
    "scaling_line": "_scaling",
    "scaling_text": "_scaling",
    "search_bundle": "_search",
    "search_html": "_search",
    "search_line": "_search_line",
    "search_text": "_search",
    "timeline_frame": "_timeline",
    "timeline_page": "_timeline",
    "timeline_svg": "_timeline_svg",
    "timeline_text": "_timeline",
    "FIGURES": "_vitals",
    "vitals_figures": "_vitals",
    "vitals_line": "_vitals",
}

__all__ = [
    "FIGURES",
    "HeatmapView",
    "LinesView",
    "LiveWidget",
    "Overlay",
    "ScatterView",
    "TableView",
    "batch_text",
    "bundle",
    "costs_bundle",
    "costs_html",
    "costs_line",
    "costs_text",
    "costs_views",
    "devices_html",
    "devices_line",
    "devices_text",
    "explorable",
    "failure_text",
    "graph_frame",
    "graph_svg",
    "graph_text",
    "inspection_bundle",
    "inspection_html",
    "inspection_line",
    "inspection_overlays",
    "inspection_text",
    "inspection_views",
    "limits_html",
    "limits_line",
    "limits_text",
    "live_text",
    "live_widget",
    "memory_plan_html",
    "memory_plan_line",
    "memory_plan_text",
    "packed_timeline",
    "profile_overlays",
    "profile_text",
    "ranks_html",
    "ranks_text",
    "run_bundle",
    "save",
    "scaling_html",
    "scaling_line",
    "scaling_text",
    "search_bundle",
    "search_html",
    "search_line",
    "search_text",
    "timeline_frame",
    "timeline_page",
    "timeline_svg",
    "timeline_text",
    "vitals_figures",
    "vitals_line",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
