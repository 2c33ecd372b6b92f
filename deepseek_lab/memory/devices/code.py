"""A plan as a program: plain PyTorch that neither needs this package nor knows it."""

from __future__ import annotations

import ast
import pprint
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from deepseek_lab.memory.devices.anatomy import anatomy
from deepseek_lab.memory.devices.footprint import Inputs
from deepseek_lab.memory.devices.runtime import adamw8bit, loss, shard
from deepseek_lab.memory.devices.way import Way


def to_code(model: nn.Module, inputs: Inputs, way: Way, machine: str, num_devices: int, about: str) -> str:
    """The program of a plan.

    ``prepare`` and ``train_step`` take any model of the class; where transformers can build it from its
    configuration, the program also runs by itself, on random tokens.
    """
    seen = anatomy(model)
    count = len(seen.blocks)
    modules = [loss, shard] + [adamw8bit] * way.eight_bit
    imports, bodies = _merged(modules, ["import os", "import torch.distributed as dist",
        "from torch.distributed.device_mesh import init_device_mesh"])  # fmt: skip
    config = getattr(model, "config", None)
    own = hasattr(config, "to_diff_dict") and type(model).__module__.startswith("transformers.")
    if own:
        imports.append("import transformers")
    usage = (
        f"torchrun --nproc-per-node {num_devices} plan.py" if own else "from plan import prepare, train_step"
    )
    title = _safe(f"{seen.class_name} on {machine}: {way.words(count)}")
    parts = [
        f'"""{title}.\n\n{_safe(about)}\n\n    {usage}\n"""',
        "\n".join(["from __future__ import annotations", "", *imports]),
        *bodies,
        _constants(inputs, way, [block.path for block in seen.blocks]),
        _PREPARE.format(optimizer=_optimizer(way), stepping=_stepping(way), returned=_returned(way)),
        _TRAIN.format(after="" if way.step_in_backward else _AFTER),
    ]
    if own:
        parts.append(_build(model, config, inputs))
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


def _safe(text: str) -> str:
    """Text of a notebook inside of a docstring."""
    return text.replace("\\", "/").replace('"', "'")


def _merged(modules: list[ModuleType], more: list[str]) -> tuple[list[str], list[str]]:
    """Imports of all, once, and what follows them in each file."""
    imports: set[str] = set(more)
    bodies = []
    for module in modules:
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        tree = ast.parse(source)
        last = 0
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                if not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
                    imports.add(ast.unparse(node))
                last = node.end_lineno or last
        bodies.append("\n".join(source.splitlines()[last:]).strip("\n"))
    return sorted(
        imports, key=lambda line: (line.split()[1].split(".")[0] in {"torch", "transformers"}, line)
    ), bodies


def _constants(inputs: Inputs, way: Way, paths: list[str]) -> str:
    ways = zip(paths, way.recompute(len(paths)), strict=True)
    lines = [
        f"KIND, HEAD, CHUNK = {inputs.kind!r}, {inputs.head!r}, {way.chunk}",
        "BLOCKS = {",
        *(f"    {path!r}: {how!r}," for path, how in ways),
        "}",
        '"""What each block computes again in the backward pass."""',
        f"PARAMETERS = torch.{'bfloat16' if way.bf16_parameters else 'float32'}",
        "COMPUTE, REDUCE = torch.bfloat16, PARAMETERS",
        f"OFFLOAD = {way.offload}",
    ]
    return "\n".join(lines)


def _optimizer(way: Way) -> str:
    return "AdamW8bit(some, lr=rate)" if way.eight_bit else "torch.optim.AdamW(some, lr=rate, fused=True)"


def _stepping(way: Way) -> str:
    return "step_in_backward(trained, make)" if way.step_in_backward else "[make(trained)]"


def _returned(way: Way) -> str:
    return "one for each parameter, which steps by itself" if way.step_in_backward else "one"


_PREPARE = '''
def prepare(model: nn.Module, rate: float = 1e-4) -> tuple[WithLoss, list[torch.optim.Optimizer]]:
    """The model sharded over all ranks of the process group, and its optimizers ({returned}).

    A model on the meta device is made on the ranks, each its own part, and then initialised.
    """
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    model = model.to(PARAMETERS).train()
    training = WithLoss(model, KIND, HEAD, CHUNK)
    blocks = [model.get_submodule(path) for path in BLOCKS]
    shard(training, blocks, mesh, list(BLOCKS.values()), COMPUTE, REDUCE, OFFLOAD, pin=kind == "cuda")
    if any(parameter.is_meta for parameter in training.parameters()):
        training.to_empty(device="cpu" if OFFLOAD else kind)
        initialise(model)
    trained = [parameter for parameter in training.parameters() if parameter.requires_grad]

    def make(some: list[nn.Parameter]) -> torch.optim.Optimizer:
        return {optimizer}

    return training, {stepping}


def initialise(model: nn.Module) -> None:
    """First values, by the model's own rules."""
    if hasattr(model, "init_weights"):
        model.init_weights()
        return
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
'''

_TRAIN = '''
def train_step(
    training: WithLoss,
    optimizers: list[torch.optim.Optimizer],
    labels: torch.Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """One step on this rank's part of the batch; its loss."""
    loss = training(labels, *args, **kwargs)
    loss.backward(){after}
    return loss.detach()
'''
_AFTER = """
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()"""


def _build(model: nn.Module, config: Any, inputs: Inputs) -> str:
    values = {key: value for key, value in config.to_diff_dict().items() if key != "transformers_version"}
    text = pprint.pformat(values, width=100, sort_dicts=True)
    shapes = {name: tuple(value.shape) for name, value in inputs.kwargs.items() if hasattr(value, "shape")}
    whole = {
        name: str(value.dtype).startswith("torch.int")
        for name, value in inputs.kwargs.items()
        if hasattr(value, "dtype")
    }
    fixed = {name: value for name, value in inputs.kwargs.items() if not hasattr(value, "shape")}
    limit = int(getattr(config, "vocab_size", 2) or 2)
    lines = [
        f'        "{name}": torch.randint({limit}, {shape}, device=device),'
        if whole[name]
        else f'        "{name}": torch.randn({shape}, device=device),'
        for name, shape in shapes.items()
    ]
    if inputs.kind == "next-token":
        first = next(name for name, shape in shapes.items() if len(shape) == 2 and whole[name])
        labels = f'inputs["{first}"]'
    elif inputs.labels is None:
        labels = "None"
    else:
        labels = (
            f"torch.randint({getattr(config, 'num_labels', 2)}, {tuple(inputs.labels.shape)}, device=device)"
        )
    name = type(model).__name__
    return f'''
CONFIG = {text}


def build(device: str = "meta") -> nn.Module:
    """The model; on the meta device no rank ever holds all of it."""
    with torch.device(device):
        return transformers.{name}(transformers.{type(config).__name__}(**CONFIG))


def main(num_steps: int = 3) -> None:
    """A trial on random data."""
    dist.init_process_group()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    training, optimizers = prepare(build())
    inputs: dict[str, Any] = {{
{chr(10).join(lines)}
    }}
    for step in range(num_steps):
        loss = train_step(training, optimizers, {labels}, **inputs, **{fixed!r})
        if dist.get_rank() == 0:
            print(f"step {{step}}: loss {{loss.item():.4f}}")
    if device.type == "cuda":
        print(f"rank {{dist.get_rank()}}: at most {{torch.cuda.max_memory_allocated() / 2**30:.1f}} GiB")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
'''
