"""A plan in words, and as code to write by hand."""

from __future__ import annotations

from collections.abc import Sequence

from deepseek_lab.base.events import MemoryStep
from deepseek_lab.memory.plan import Chosen, Plan


def steps_of(plan: Plan, labelled: float) -> tuple[MemoryStep, ...]:
    """What a plan does, alike parts together."""
    groups: dict[tuple[object, ...], list[Chosen]] = {}
    for part in plan.parts:
        alike = part.option.word if part.option.within else part.option
        groups.setdefault((alike, part.operations), []).append(part)
    found = []
    for same in groups.values():
        option = same[0].option
        found.append(
            MemoryStep(
                option.word,
                tuple(one.path for one in same),
                sum(one.plain_bytes - one.option.bytes for one in same),
                sum(one.option.seconds for one in same),
            )
        )
    found.sort(key=lambda one: -one.saved_bytes)
    if plan.choice.defers:
        action = "logits a chunk at a time, used up for the loss"
        if labelled < 1.0:
            action += f", where a label counts ({labelled:.0%})"
        found.append(MemoryStep(action, (), 0, 0.0))
    if plan.choice.fused:
        found.append(MemoryStep("the optimiser's fused form", (), 0, 0.0))
    if plan.choice.in_backward:
        found.append(MemoryStep("the optimiser's step inside the backward pass", (), 0, 0.0))
    if plan.choice.eight_bit:
        found.append(MemoryStep("AdamW's moments in 8 bits", (), 0, 0.0))
    return tuple(found)


def code_of(plan: Plan, name: str, kind: str) -> str:
    """What a plan does, as lines to write by hand."""
    if plan.is_plain:
        return ""
    full = [path for path, keep in plan.choice.keeps.items() if keep is not None and not keep]
    some = [part for part in plan.parts if part.option.keep]
    lines = ["import functools", "", "from torch.utils import checkpoint", ""]
    if full:
        lines += [
            f"for path in {_list(full)}:",
            f"    part = {name}.get_submodule(path)",
            "    part.forward = functools.partial(checkpoint.checkpoint, part.forward, use_reentrant=False)",
        ]
    if some:
        lines += [
            "",
            "",
            "def keeping(numbers):",
            "    def contexts():",
            "        count = iter(range(1 << 30))",
            "",
            "        def policy(context, operation, *args, **kwargs):",
            "            kept = next(count) in numbers",
            "            policies = checkpoint.CheckpointPolicy",
            "            return policies.MUST_SAVE if kept else policies.PREFER_RECOMPUTE",
            "",
            "        return checkpoint.create_selective_checkpoint_contexts(policy)",
            "",
            "    return contexts",
            "",
        ]
        groups: dict[tuple[int, ...], list[Chosen]] = {}
        for part in some:
            groups.setdefault(tuple(sorted(part.option.keep or ())), []).append(part)
        for numbers, parts in groups.items():
            names = sorted(
                {parts[0].operations[index] for index in numbers if index < len(parts[0].operations)}
            )
            lines += [
                "",
                f"# the results of {', '.join(names)} are kept, by number of operation",
                f"for path in {_list([part.path for part in parts])}:",
                f"    part = {name}.get_submodule(path)",
                "    part.forward = functools.partial(",
                "        checkpoint.checkpoint, part.forward, use_reentrant=False,",
                f"        context_fn=keeping({set(numbers)}),",
                "    )",
            ]
    if plan.choice.defers:
        lines += ["", "# the logits are left out by deepseek_lab.memory.logits.linear_cross_entropy"]
    if plan.choice.fused:
        lines += ["", "# and the optimiser is made with fused=True"]
    if plan.choice.in_backward:
        lines += [
            "",
            "# the optimiser's step inside the backward pass: an optimiser for each parameter",
            f"each = {{one: type(optimizer)([one], **optimizer.defaults) for one in {name}.parameters()}}",
            "",
            "",
            "def step(one):",
            "    each[one].step()",
            "    one.grad = None",
            "",
            "",
            f"for one in {name}.parameters():",
            "    one.register_post_accumulate_grad_hook(step)",
        ]
    if plan.choice.eight_bit:
        lines += ["", "# and the optimiser is deepseek_lab.memory.devices.runtime.adamw8bit.AdamW8bit"]
    return "\n".join(lines) + "\n"


def _list(paths: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{path}"' for path in paths) + "]"
