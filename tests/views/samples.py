"""Graphs and reports that the tests of the views draw: small ones by hand, random ones by seed."""

from __future__ import annotations

import dataclasses
import random

from deepseek_lab.base import events as ev
from deepseek_lab.base.events import GraphNode
from deepseek_lab.base.report import OptimizeReport

CELL = "/tmp/ipykernel_1/2.py"
F32 = "torch.float32"


def mlp() -> tuple[GraphNode, ...]:
    """Three linear layers with two activations, captured with their parameters."""
    sizes = [784, 512, 256, 10]
    nodes = [GraphNode("x", "input", shape=(32, 784), dtype=F32, file=CELL, line=9)]
    last = "x"
    for i in range(3):
        module, out = f"layers.{2 * i}", (32, sizes[i + 1])
        for name, shape in (("weight", (sizes[i + 1], sizes[i])), ("bias", (sizes[i + 1],))):
            nodes.append(GraphNode(f"layers_{2 * i}_{name}", "parameter", module, (), shape, F32))
        inputs = (last, f"layers_{2 * i}_weight", f"layers_{2 * i}_bias")
        nodes.append(GraphNode(f"linear_{i}", "linear", module, inputs, out, F32, CELL, 4 + i))
        last = f"linear_{i}"
        if i < 2:
            nodes.append(
                GraphNode(f"relu_{i}", "relu", f"layers.{2 * i + 1}", (last,), out, F32, CELL, 4 + i)
            )
            last = f"relu_{i}"
    nodes.append(GraphNode("output", "output", inputs=(last,), file=CELL, line=9))
    return tuple(nodes)


class _Trace:
    def __init__(self) -> None:
        self.nodes: list[GraphNode] = []
        self.used: dict[str, int] = {}

    def __call__(
        self, op: str, module: str, *inputs: str, shape: tuple[int, ...] = (1, 128, 768), line: int = 0
    ) -> str:
        count = self.used.get(op, 0)
        self.used[op] = count + 1
        name = f"{op}_{count}" if count else op
        self.nodes.append(GraphNode(name, op, module, inputs, shape, F32, CELL, line))
        return name

    def weight(self, module: str, *shape: int) -> str:
        name = f"{module}_weight".replace(".", "_")
        self.nodes.append(GraphNode(name, "parameter", module, (), shape, F32))
        return name


def gpt2(num_blocks: int = 12, wide_block: int = -1) -> tuple[GraphNode, ...]:
    """A transformer of equal blocks with a tied embedding; ``wide_block`` has a wider feed-forward part."""
    t = _Trace()
    ids, mask = t("input", "", shape=(1, 128), line=3), t("input", "", shape=(1, 128), line=3)
    tied = t.weight("transformer.wte", 50257, 768)
    h = t("dropout", "transformer.drop", t("embedding", "transformer.wte", ids, tied, line=5), line=6)
    mask = t("masked_fill", "transformer", mask, shape=(1, 1, 128, 128), line=7)
    for i in range(num_blocks):
        block = f"transformer.h.{i}"
        wide = 4096 if i == wide_block else 3072
        attention, feed = f"{block}.attn", f"{block}.mlp"
        x = t("layer_norm", f"{block}.ln_1", h, t.weight(f"{block}.ln_1", 768), line=20)
        x = t("linear", f"{attention}.c_attn", x, t.weight(f"{attention}.c_attn", 2304, 768), line=30)
        parts = [t("transpose", attention, t("getitem", attention, x, line=31), line=32) for _ in range(3)]
        x = t("scaled_dot_product_attention", attention, *parts, mask, line=33)
        x = t("linear", f"{attention}.c_proj", x, t.weight(f"{attention}.c_proj", 768, 768), line=34)
        h = t("add", block, h, t("dropout", f"{attention}.resid_dropout", x, line=35), line=21)
        x = t("layer_norm", f"{block}.ln_2", h, t.weight(f"{block}.ln_2", 768), line=22)
        x = t("linear", f"{feed}.c_fc", x, t.weight(f"{feed}.c_fc", wide, 768), shape=(1, 128, wide), line=40)
        x = t("gelu", f"{feed}.act", x, shape=(1, 128, wide), line=41)
        x = t("linear", f"{feed}.c_proj", x, t.weight(f"{feed}.c_proj", 768, wide), line=42)
        h = t("add", block, h, x, line=23)
    h = t("layer_norm", "transformer.ln_f", h, t.weight("transformer.ln_f", 768), line=50)
    t("output", "", t("linear", "lm_head", h, tied, shape=(1, 128, 50257), line=51), shape=(), line=3)
    return tuple(t.nodes)


def gpt2_plan(nodes: tuple[GraphNode, ...]) -> tuple[GraphNode, ...]:
    """The graph without dropout, with each linear and gelu fused and another attention."""
    by_name = {node.name: node for node in nodes}
    alias = {node.name: node.inputs[0] for node in nodes if node.op == "dropout"}
    fused = {node.inputs[0] for node in nodes if node.op == "gelu"}

    def now(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(alias.get(name, name) for name in names)

    plan = []
    for node in nodes:
        if node.op == "dropout" or node.name in fused:
            continue
        if node.op == "gelu":
            alias[node.name] = f"fused_{node.name}"
            inputs = now(by_name[node.inputs[0]].inputs)
            plan.append(dataclasses.replace(node, name=alias[node.name], op="linear_gelu", inputs=inputs))
            continue
        op = "flash_attention" if node.op == "scaled_dot_product_attention" else node.op
        plan.append(dataclasses.replace(node, op=op, inputs=now(node.inputs)))
    return tuple(plan)


def chain(
    num_nodes: int = 20_000, ops: tuple[str, ...] = ("relu", "add", "mul", "tanh")
) -> tuple[GraphNode, ...]:
    """One long chain without modules; operations in random order."""
    choose = random.Random(0)
    nodes = [GraphNode("x", "input", shape=(8,), dtype=F32)]
    for i in range(num_nodes - 2):
        nodes.append(
            GraphNode(f"n{i}", choose.choice(ops), "", (nodes[-1].name,), (8,), F32, CELL, i % 300 + 1)
        )
    nodes.append(GraphNode("output", "output", inputs=(nodes[-1].name,)))
    return tuple(nodes)


def random_graph(seed: int, num_nodes: int = 120) -> tuple[GraphNode, ...]:
    """Random wiring, modules that come and go, parameters, unknown inputs and doubled names."""
    rng = random.Random(seed)
    modules = [
        "",
        *(
            ".".join(rng.choice("abc") + str(rng.randrange(3)) for _ in range(rng.randint(1, 4)))
            for _ in range(9)
        ),
    ]
    nodes: list[GraphNode] = []
    module = ""
    for i in range(num_nodes):
        if rng.random() < 0.3:
            module = rng.choice(modules)
        op = rng.choice(
            ["linear", "relu", "add", "parameter", "view", "a_very_long_operation_name_of_a_library"]
        )
        known = [node.name for node in nodes[-rng.choice([2, 5, 120]) :]]
        inputs = (
            ()
            if op == "parameter"
            else tuple(rng.choice([*known, "nowhere"]) for _ in range(rng.randint(0, 3)))
        )
        shape = tuple(rng.choice([1, 8, 128]) for _ in range(rng.randint(0, 5)))
        name = f"n{rng.randrange(i + 1)}" if rng.random() < 0.02 else f"n{i}"
        nodes.append(
            GraphNode(name, op, module, inputs, shape, F32, rng.choice([CELL, "lib.py"]), rng.randrange(2000))
        )
    return tuple(nodes)


def random_plan(seed: int, nodes: tuple[GraphNode, ...]) -> tuple[GraphNode, ...]:
    """Some nodes gone, some of another operation, some new."""
    rng = random.Random(seed)
    plan: list[GraphNode] = []
    for node in nodes:
        draw = rng.random()
        if draw < 0.1:
            continue
        plan.append(dataclasses.replace(node, op="fast_" + node.op) if draw < 0.2 else node)
        if draw > 0.95:
            plan.append(dataclasses.replace(node, name=f"{node.name}_new", inputs=(node.name,)))
    return tuple(plan)


def report_events(
    nodes: tuple[GraphNode, ...], plan_nodes: tuple[GraphNode, ...] = (), *, hostile: str = ""
) -> list[ev.Event]:
    """A run in which every status occurs; ``hostile`` goes into every string that a notebook can set."""
    run, graph, target = "run-1", "g0" + hostile, "model" + hostile

    def ended(
        candidate: str,
        status: str,
        median_ms: float | None = None,
        speedup: float | None = None,
        speedup_ci95: tuple[float, float] | None = None,
        **rest: object,
    ) -> ev.Event:
        name, eager_ms = candidate + hostile, 98.0 if median_ms else None
        timed = {
            "median_ms": median_ms,
            "eager_ms": eager_ms,
            "speedup": speedup,
            "speedup_ci95": speedup_ci95,
        }
        return at(ev.CandidateEnded, graph=graph, candidate=name, status=status, **timed, **rest)

    def at(kind: type[ev.Event], **rest: object) -> ev.Event:
        return kind(run=run, at_s=0.0, **rest)

    versions = {"torch": "2.9.0" + hostile, "python": "3.11"}
    return [
        at(ev.RunStarted, verb="optimize", source=hostile),
        at(
            ev.MachineSeen,
            processor="Zen 4" + hostile,
            num_threads=2,
            memory_bytes=8 << 30,
            versions=versions,
        ),
        at(ev.TargetFound, target=target, type_name="MLP" + hostile),
        at(
            ev.GraphCaptured,
            target=target,
            graph=graph,
            nodes=nodes,
            signature="f32[32, 784]" + hostile,
            capture_s=1.2,
        ),
        ended(
            "onnxruntime",
            "won",
            61.2,
            1.6,
            (1.55, 1.66),
            build_s=9.1,
            max_rel_error=3e-6,
            eager_rel_error=1e-6,
        ),
        ended("openvino", "lost", 69.5, 1.41, (1.3, 1.5), cached=True),
        ended(
            "bf16",
            "refused",
            32.0,
            3.06,
            (2.8, 3.3),
            reason="differs at output 0" + hostile,
            max_rel_error=0.2,
        ),
        ended("inductor", "failed", reason="ran out of time after 120 s" + hostile, build_s=120.0),
        ended("executorch", "skipped", reason="not installed: pip install executorch" + hostile),
        at(
            ev.PlanChosen,
            graph=graph,
            candidate="onnxruntime" + hostile,
            code="def run(x):\n    return session.run(x)\n" + hostile,
            nodes=plan_nodes,
            coverage=0.94,
        ),
        at(
            ev.LiveMeasured,
            target=target,
            graph=graph,
            eager_ms=98.0,
            median_ms=60.5,
            speedup=1.62,
            speedup_ci95=(1.58, 1.66),
            num_rounds=30,
        ),
        at(ev.Decided, target=target, graph=graph, chosen="onnxruntime" + hostile, reason=hostile),
        at(ev.GraphBreak, target=target, reason="print() was called" + hostile, file=CELL + hostile, line=7),
        at(ev.FellBack, target=target, reason="parameter weight changed" + hostile),
        at(ev.FellBack, target=target, reason="parameter weight changed" + hostile),
        at(ev.Noted, text="bf16: 2.9x at 1e-2" + hostile),
        at(ev.RunEnded),
    ]


def report(
    nodes: tuple[GraphNode, ...], plan_nodes: tuple[GraphNode, ...] = (), *, hostile: str = ""
) -> OptimizeReport:
    """The report of :func:`report_events`."""
    return OptimizeReport.fold(report_events(nodes, plan_nodes, hostile=hostile))
