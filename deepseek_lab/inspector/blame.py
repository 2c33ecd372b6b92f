"""NaN and infinity: what made them first, found by running the step again on a copy."""

from __future__ import annotations

import dataclasses
import math
import weakref

from torch import Tensor

from deepseek_lab.base.inspection import Finding
from deepseek_lab.inspector import labels, losses, nonfinite, rules
from deepseek_lab.inspector.losses import LossCall
from deepseek_lab.inspector.seen import ModelSeen
from deepseek_lab.inspector.sites import Site


def of_loss(
    model: ModelSeen, loss: Tensor, value: float, site: Site, last_call: LossCall | None
) -> Finding | None:
    """Where a loss that is not finite comes from; None where the call that made it is gone.

    The loss function's own call is given where it was seen, else the graph of the loss tells.
    """
    what = "NaN" if math.isnan(value) else "infinite"
    module, args, kwargs = model.call or (None, (), {})
    if module is None:
        return None
    broken = nonfinite.parameters_not_finite(module)
    if broken:
        return _broken_parameters(model, broken, what, site)
    bad_inputs = nonfinite.inputs_not_finite(args, kwargs)
    if bad_inputs:
        layer = next(iter(model.layers), None)
        return Finding(
            kind="input",
            module=layer.path if layer is not None else model.name,
            since=model.step,
            text=f"the inputs of {model.name} are not finite, and the loss is {what}",
            evidence="; ".join(bad_inputs),
            fix="leave these rows out, or fill them",
            code="x = torch.nan_to_num(x)  # or find out where they come from",
            file=(layer.site if layer is not None and layer.site[0] else site)[0],
            line=(layer.site if layer is not None and layer.site[0] else site)[1],
            model=model.name,
        )
    made = losses.call_in_graph(loss) if last_call is None else (last_call, ())
    if made is not None:
        call = dataclasses.replace(made[0], site=site)
        finding = labels.check(call, model.step, model.name)
        if finding is not None and finding.text.find("probabilities") < 0:
            return with_output(finding, model)
    culprit, why = _rerun(model, backward=False)
    if culprit is None:
        culprit = nonfinite.find_in_graph(loss, site)
    return _made_by(model, culprit, why, f"the loss is {what}", site, weakref.ref(loss))


def of_gradient(model: ModelSeen, site: Site, loss: weakref.ref[Tensor] | None) -> Finding:
    """Where a gradient that is not finite comes from, although the loss is."""
    culprit, why = _rerun(model, backward=True)
    return _made_by(model, culprit, why, "the loss is finite, a gradient is not", site, loss)


def _rerun(model: ModelSeen, *, backward: bool) -> tuple[nonfinite.Culprit | None, str]:
    if model.call is None:
        return None, "the call is gone"
    module, args, kwargs = model.call
    try:
        return (
            nonfinite.find(module, args, kwargs, model.random_state, backward=backward),
            "no operator of the model makes it when its step is run again",
        )
    except Exception as error:
        return None, f"the step could not be run again ({type(error).__name__}: {error})"


def _made_by(
    model: ModelSeen,
    culprit: nonfinite.Culprit | None,
    why: str,
    what: str,
    site: Site,
    loss: weakref.ref[Tensor] | None,
) -> Finding:
    if culprit is None:
        names = nonfinite.names_in_graph(loss)
        candidates = f"; its derivatives may be: {', '.join(names)}" if names else ""
        return Finding(
            kind="nonfinite",
            module=model.name,
            since=model.step,
            text=f"{what}; it is made of what {model.name} returns, between the call and backward",
            evidence=f"{why}{candidates}",
            fix="small numbers added before a root, a logarithm or a division",
            code="(x + 1e-8).sqrt()",
            file=site[0],
            line=site[1],
            model=model.name,
        )
    fix, code = nonfinite.advice(culprit)
    called = model.modules.get(id(model.call[0])) if model.call is not None else None
    base = called.path if called is not None else model.name
    path = f"{base}.{culprit.module}" if culprit.module else base
    known = next((one for one in model.modules.values() if one.path == path), None)
    place = culprit.site if culprit.site[0] else known.site if known is not None and known.site[0] else site
    return Finding(
        kind="nonfinite",
        module=path,
        since=model.step,
        text=f"{what}: first made by {culprit.operator}"
        + (" on the way back" if culprit.in_backward else "")
        + (f" in {path}" if culprit.in_model else f", in what is computed from {base}"),
        evidence=f"given {culprit.inputs}; gave {culprit.result}",
        fix=fix,
        code=code,
        file=place[0],
        line=place[1],
        model=model.name,
    )


def _broken_parameters(model: ModelSeen, broken: list[str], what: str, site: Site) -> Finding:
    path = f"{model.name}.{broken[0]}"
    owner = next((one.owner for one in model.parameters.values() if one.path == path), None)
    last = next((total for _, total in reversed(model.totals) if math.isfinite(total)), None)
    lr = [group.get("lr") for ref in model.optimizers if (one := ref()) for group in one.param_groups]
    evidence = f"{len(broken)} parameters, {broken[0]} first"
    evidence += f"; last finite gradient norm seen {rules.g(last)}" if last is not None else ""
    evidence += f"; learning rate {lr[0]:g}" if lr and isinstance(lr[0], float) else ""
    return Finding(
        kind="nonfinite",
        module=owner.path if owner is not None else model.name,
        since=max(0, model.step - 1),
        text=f"the loss is {what}: the update before it left parameters of {model.name} that are not finite",
        evidence=evidence,
        fix="a smaller learning rate, or clip the gradient's norm",
        code="torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # before optimizer.step()",
        file=(owner.site if owner is not None and owner.site[0] else site)[0],
        line=(owner.site if owner is not None and owner.site[0] else site)[1],
        model=model.name,
    )


def with_output(finding: Finding, model: ModelSeen | None) -> Finding:
    """The finding, with the layer that makes what the loss is computed from."""
    layers = model.layers if model is not None else []
    return dataclasses.replace(finding, affected=(layers[-1].path,)) if layers else finding
