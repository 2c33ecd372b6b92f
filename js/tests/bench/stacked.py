"""A page of 50,000 operations: models of transformers as Dynamo captures them, beside each other with their paths."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from deepseek_lab.base.events import GraphNode
from deepseek_lab.capture.nodes import graph_nodes
from deepseek_lab.engine.tracing import Tracer
from deepseek_lab.views import _page

OPERATIONS = 50_000


def captured(model: torch.nn.Module, **inputs: Any) -> tuple[GraphNode, ...]:
    """The operations of one call."""
    found: list[GraphNode] = []

    def backend(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        found.extend(graph_nodes(graph))
        return graph.forward

    with torch.no_grad():
        Tracer(model.eval(), backend).capture((), inputs, dynamic=False)
    return tuple(found)


def models() -> list[tuple[str, tuple[GraphNode, ...]]]:
    """Architectures of several families, as deep as the real ones and narrow."""
    ids = {"input_ids": torch.ones(1, 16, dtype=torch.int64)}
    narrow = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 100}
    made = []
    for kind, layers in (("llama", 80), ("bert", 24), ("qwen2", 64)):
        options = {**narrow, "num_hidden_layers": layers}
        if kind != "bert":
            options["num_key_value_heads"] = 4
        config = AutoConfig.for_model(kind, **options)
        family = AutoModel if kind == "bert" else AutoModelForCausalLM
        made.append((kind, captured(family.from_config(config), **ids)))
    gpt2 = AutoConfig.for_model("gpt2", n_embd=64, n_head=4, n_layer=48, vocab_size=100)
    made.append(("gpt2", captured(AutoModelForCausalLM.from_config(gpt2), **ids)))
    return made


def main(path: str) -> None:
    """Write the page."""
    parts = models()
    nodes: list[GraphNode] = []
    copy = 0
    while len(nodes) < OPERATIONS:
        for name, part in parts:
            at = f"{name}_{copy}"
            nodes += [
                replace(
                    node,
                    name=f"{at}.{node.name}",
                    module=f"{at}.{node.module}".rstrip("."),
                    inputs=tuple(f"{at}.{one}" for one in node.inputs),
                )
                for node in part
            ]
        copy += 1
    page = _page.page(
        "graph", f"{copy} copies of {', '.join(name for name, _ in parts)}", _page.packed_graph(nodes)
    )
    assert page is not None
    Path(path).write_text(page, encoding="utf-8")
    sys.stdout.write(f"{len(nodes)} operations, page of {len(page) / 1e3:.0f} kB\n")


if __name__ == "__main__":
    main(sys.argv[1])
