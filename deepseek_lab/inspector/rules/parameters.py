"""Parameters that nothing trains."""

from __future__ import annotations

from collections.abc import Sequence

from deepseek_lab.base.inspection import Finding
from deepseek_lab.inspector.seen import ModelSeen, ModuleSeen, ParameterSeen
from deepseek_lab.inspector.sites import as_python

NO_GRADIENT_LOOKS = 3
"""Steps that were looked at before a parameter without a gradient is a finding."""


def unreached(model: ModelSeen) -> list[Finding]:
    """Parameters that are not trained, module by module, and why."""
    if not model.optimizers:
        return []
    groups: dict[str, list[ParameterSeen]] = {"frozen": [], "unused": [], "optimizer": []}
    for one in model.parameters.values():
        parameter = one.parameter()
        if parameter is None:
            continue
        if not parameter.requires_grad:
            groups["frozen"].append(one)
        elif one.num_looks >= NO_GRADIENT_LOOKS and not one.had_gradient:
            groups["unused"].append(one)
        elif one.num_looks >= NO_GRADIENT_LOOKS and not one.in_optimizer:
            groups["optimizer"].append(one)
    return [
        finding
        for kind, members in groups.items()
        for top in _tops(model, members)
        for finding in [_unreached(model, kind, top, members)]
    ]


def _tops(model: ModelSeen, members: Sequence[ParameterSeen]) -> list[ModuleSeen]:
    """The largest modules all of whose parameters are among these, and the owners of the rest."""
    chosen = {id(one) for one in members}
    whole: dict[str, bool] = {}
    for one in model.parameters.values():
        parts = one.owner.path.split(".")
        for count in range(1, len(parts) + 1):
            path = ".".join(parts[:count])
            whole[path] = whole.get(path, True) and id(one) in chosen
    by_path = {seen.path: seen for seen in model.modules.values()}
    found: dict[str, ModuleSeen] = {}
    for one in members:
        parts = one.owner.path.split(".")
        for count in range(1, len(parts) + 1):
            path = ".".join(parts[:count])
            if (whole[path] or count == len(parts)) and path in by_path:
                found.setdefault(path, by_path[path])
                break
    return list(found.values())


def _unreached(model: ModelSeen, kind: str, top: ModuleSeen, members: Sequence[ParameterSeen]) -> Finding:
    inside = [
        one for one in members if one.owner.path == top.path or one.owner.path.startswith(f"{top.path}.")
    ]
    count = sum(found.numel() for one in inside if (found := one.parameter()) is not None)
    names = ", ".join(one.path.removeprefix(f"{top.path}.") for one in inside[:4])
    names += ", …" if len(inside) > 4 else ""
    held = any(one.in_optimizer for one in inside)
    called = any(
        seen.order >= 0
        for seen in model.modules.values()
        if seen.path == top.path or seen.path.startswith(f"{top.path}.")
    )
    text, fix, code = {
        "frozen": (
            f"{top.path} is frozen",
            "nothing if that is meant; else let it be trained",
            f"{as_python(top.path)}.requires_grad_(True)",
        ),
        "unused": (
            f"{top.path} {'is called, and no gradient comes back to it' if called else 'is never called'}",
            "look for .detach(), torch.no_grad() or .data between it and the loss"
            if called
            else "call it in forward, or take it out of the model",
            f"print([name for name, one in {as_python(top.path)}.named_parameters() if one.grad is None])",
        ),
        "optimizer": (
            f"{top.path} has gradients, and no optimiser that steps holds it",
            "make the optimiser after the model is complete, or hand it these parameters",
            f"optimizer.add_param_group({{'params': list({as_python(top.path)}.parameters())}})",
        ),
    }[kind]
    return Finding(
        kind=kind,
        module=top.path,
        since=0,
        text=text,
        evidence=f"{count:,} parameters: {names}"
        + (f"; {NO_GRADIENT_LOOKS} steps and more were looked at" if kind != "frozen" else "")
        + ("; an optimiser holds them" if kind == "frozen" and held else ""),
        fix=fix,
        code=code,
        file=top.site[0] or model.site[0],
        line=top.site[1] or model.site[1],
        model=model.name,
        is_note=kind == "frozen",
    )
