"""A loop that is watched: what it calls, differentiates and steps, while it runs as it is."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from deepseek_lab.base.inspection import KINDS, Curve, Finding, Inspection, ModuleRecord
from deepseek_lab.inspector import labels, losses, nonfinite, rules, statistics
from deepseek_lab.inspector.budget import SHARE, Budget
from deepseek_lab.inspector.calls import ModuleCalls, Returned
from deepseek_lab.inspector.collector import Collector
from deepseek_lab.inspector.copies import plain
from deepseek_lab.inspector.losses import LossCall, LossCalls
from deepseek_lab.inspector.names import name_of
from deepseek_lab.inspector.seen import LossSeen, ModelSeen, ModuleSeen
from deepseek_lab.inspector.sites import NOWHERE, Site, as_python, own_site
from deepseek_lab.measure.profiler.frames import is_own

if TYPE_CHECKING:
    from deepseek_lab.inspector.trial import Trials

_PROBES, _PROBED, _PROBING = 32, 1024, 0.375
"""Layers, and values of a gradient of each, that are looked at in every step, to know at once when one is not finite;
and the part of the share that this may take, or it is one layer only."""
_PROBE_EVERY = 16
"""Steps after which it is all of them in any case."""
_LOSS_EVERY = 25
"""Steps after which losses are judged without a sample."""
_MAX_CURVES = 24
_MAX_ERRORS = 3

Found = Callable[[Finding], None]
Key = tuple[str, str]


class Watch:
    """Watches what trains between :meth:`open` and :meth:`close`.

    Args:
        namespace: Where models have their names.
        only: Modules to watch; empty watches every one that is called.
        found: Told of each finding when it first appears, in the middle of the loop.
        share: Of the loop's time that looking may take.
        trials: Keeps what is needed to try fixes.

    Nothing of it is on a model, a parameter or an optimiser; patches of PyTorch's functions are undone by
    :meth:`close`.
    An error of ours is a note, never an error of the loop.
    """

    def __init__(
        self,
        namespace: Mapping[str, Any],
        *,
        only: Sequence[nn.Module] = (),
        found: Found = lambda finding: None,
        share: float = SHARE,
        trials: Trials | None = None,
    ) -> None:
        self._namespace, self._only, self._found = namespace, tuple(only), found
        self._trials = trials
        self._budget = Budget(share)
        self._calls = ModuleCalls(self)
        self._losses = LossCalls(self)
        self._models: dict[int, tuple[weakref.ref[nn.Module], ModelSeen | None]] = {}
        """By the identity of the module that the loop calls; None for one without parameters."""
        self._all: list[ModelSeen] = []
        self._recent: list[ModelSeen] = []
        """Models that were called since the last backward pass."""
        self._open: dict[int, Collector] = {}
        self._streaks: dict[int, rules.Streaks] = {}
        self._of_optimizer: dict[int, tuple[weakref.ref[torch.optim.Optimizer], int, list[ModelSeen]]] = {}
        self._strangers: dict[int, tuple[weakref.ref[torch.optim.Optimizer], int, Site]] = {}
        """Optimisers that hold no parameter of any model that was called, with how often they stepped."""
        self._loss: dict[Site, LossSeen] = {}
        self._labels: dict[str, labels.LabelsSeen] = {}
        self._last_call: LossCall | None = None
        self._num_loss_calls = 0
        self._last_loss: weakref.ref[Tensor] | None = None
        self._last_site: Site = NOWHERE
        self._findings: dict[Key, Finding] = {}
        self._blamed: set[int] = set()
        self._probing_s = 0.0
        self._num_steps = 0
        self._in_backward = False
        self._notes: dict[str, None] = {}
        self._errors = 0
        self._opened = False
        self._off = True
        """Whether nothing is looked at: it is closed, or too much of ours went wrong."""
        self._hooks: list[Any] = []
        self._wall_s = 0.0

    # -- opening and closing --------------------------------------------------------------------------

    def open(self) -> Watch:
        """Start watching."""
        self._budget.start_s = time.perf_counter()
        self._hooks = [
            register_optimizer_step_pre_hook(lambda optimizer, *_: self.step_begins(optimizer)),
            register_optimizer_step_post_hook(lambda optimizer, *_: self.step_ended(optimizer)),
        ]
        self._calls.open()
        self._losses.open()
        self._opened, self._off = True, False
        return self

    def close(self, error: BaseException | None = None) -> None:
        """Stop watching; what was seen is still to be read.

        Args:
            error: What ended the loop.
        """
        if not self._opened:
            return
        self._opened, self._off = False, True
        self._losses.close()
        self._calls.close()
        for hook in self._hooks:
            hook.remove()
        if self._trials is not None:
            self._trials.stop_recording()
        self._wall_s = time.perf_counter() - self._budget.start_s
        with self._safely():
            if error is not None:
                self._judge_error(error)
            for model in list(self._all):
                self._finish(model)
                model.call = None
            self._judge_losses()
            for model in self._all:
                self._add_all(rules.unreached(model))
            self._judge_strangers()

    def __enter__(self) -> Watch:
        return self.open()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close(error)

    @contextlib.contextmanager
    def _safely(self) -> Iterator[None]:
        """An error of ours must not become one of the user's."""
        try:
            yield
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._notes.setdefault(f"something was not looked at ({type(error).__name__}: {error})")
        self._errors += 1
        self._off |= self._errors >= _MAX_ERRORS

    # What follows is in the way of every step. A ``with`` statement would be a tenth of what it costs.

    # -- calls of modules -----------------------------------------------------------------------------

    def begins(self, module: nn.Module, args: Any, kwargs: Any) -> Returned | None:
        """A model is called by the loop."""
        if self._off or self._in_backward or not torch.is_grad_enabled():
            return None
        try:
            model = self._model_of(module)
            return self._begin(model, module, args, kwargs) if model is not None else None
        except Exception as error:
            self._fail(error)
            return None

    def _model_of(self, module: nn.Module) -> ModelSeen | None:
        known = self._models.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        made: ModelSeen | None = None
        if self._wanted(module) and next(module.parameters(), None) is not None:
            name, root = name_of(module, self._namespace)
            made = next((one for one in self._all if one.module() is root), None)
            if made is None:
                made = ModelSeen(self._unique(name), root)
                self._all.append(made)
                if made.is_compiled:
                    self._notes.setdefault(
                        f"{name} is compiled: what its modules return is not seen, and so no dead or saturated units"
                    )
        self._models[id(module)] = (weakref.ref(module), made)
        return made

    def _unique(self, name: str) -> str:
        """Models that follow each other under one name (a loop over seeds) are told apart by a number."""
        same = sum(one.name.partition("#")[0] == name for one in self._all)
        return f"{name}#{same + 1}" if same else name

    def _wanted(self, module: nn.Module) -> bool:
        return not self._only or any(
            module is one or plain(one) is module or any(inner is module for inner in one.modules())
            for one in self._only
        )

    def _begin(self, model: ModelSeen, module: nn.Module, args: Any, kwargs: Any) -> Returned | None:
        if model.stepped or (model.differentiated and not model.optimizers):
            self._next_step(model)
        model.call = (module, args, kwargs)
        model.num_calls += 1
        if model not in self._recent:
            self._recent.append(model)
        if model.random:
            model.random_state = torch.get_rng_state()
        collector = self._open.get(id(model))
        if self._trials is not None:
            self._trials.begins(model, module, args, kwargs)
        if collector is not None:
            return collector if collector.again() else None
        if not self._budget.allows() or _has_mode():
            return None
        start = time.perf_counter()
        model.site = own_site(3)
        model.random_state = torch.get_rng_state()
        collector = self._open[id(model)] = Collector(model, self._fail)
        collector.spent_s += time.perf_counter() - start
        return collector

    def _next_step(self, model: ModelSeen) -> None:
        self._finish(model)
        if not model.optimizers:
            model.step += 1
            self._num_steps = max(self._num_steps, model.step)
        model.stepped = model.differentiated = False

    def ended(self, module: nn.Module, result: Any) -> None:
        """That call has returned."""
        known = self._models.get(id(module))
        model = known[1] if known is not None else None
        if model is None or self._off:
            return
        collector = self._open.get(id(model))
        if collector is not None:
            collector.forget()
        if collector is not None and not model.random and model.random_state is not None:
            with self._safely():
                model.random = not torch.equal(model.random_state, torch.get_rng_state())
        if self._trials is not None and torch.is_grad_enabled():
            with self._safely():
                self._trials.returned(model, result)

    def _judge_error(self, error: BaseException) -> None:
        """What the error that ended the loop says of labels and ids: read off its traceback."""
        call = losses.failed_call(error.__traceback__)
        if call is not None:
            model = self._recent[-1] if self._recent else None
            finding = labels.check(call, model.step if model else 0, model.name if model else "")
            if finding is not None:
                self._add(self._with_output(finding, model))
        if isinstance(error, IndexError):
            self._index_error(error)

    def _index_error(self, error: BaseException) -> None:
        trace, found, site = error.__traceback__, None, NOWHERE
        while trace is not None:
            frame = trace.tb_frame
            if is_own(frame.f_code.co_filename):
                site = (frame.f_code.co_filename, trace.tb_lineno)
            inner = frame.f_locals.get("self")
            if isinstance(inner, nn.Embedding) and frame.f_code.co_name == "forward":
                found = (inner, frame.f_locals.get("input"))
                break
            trace = trace.tb_next
        if found is None:
            return
        embedding, ids = found
        if not isinstance(ids, Tensor):
            return
        for model in self._all:
            seen = model.modules.get(id(embedding))
            if seen is None:
                continue
            self._add(
                Finding(
                    kind="input",
                    module=seen.path,
                    since=model.step,
                    text=f"{seen.path} is given numbers that it has no row for",
                    evidence=f"from {int(ids.min())} to {int(ids.max())}, rows 0 to {embedding.num_embeddings - 1}",
                    fix="a larger embedding, or a tokenizer that belongs to the model",
                    code=f"print(x.max(), {as_python(seen.path)}.num_embeddings)",
                    file=site[0],
                    line=site[1],
                    model=model.name,
                )
            )
            return

    # -- losses and backward passes ---------------------------------------------------------------------

    def loss_called(self, call: LossCall) -> None:
        """A loss function has returned."""
        if self._off or self._in_backward or not torch.is_grad_enabled():
            return
        self._last_call = call
        self._num_loss_calls += 1
        if not self._open:
            return
        start = time.perf_counter()
        try:
            self._look_at_labels(dataclasses.replace(call, site=own_site(2)))
        except Exception as error:
            self._fail(error)
        next(iter(self._open.values())).spent_s += time.perf_counter() - start

    def _look_at_labels(self, call: LossCall) -> None:
        model = self._recent[-1] if self._recent else None
        name, step = (model.name, model.step) if model is not None else ("", 0)
        finding = labels.check(call, step, name)
        if finding is not None:
            self._add(self._with_output(finding, model))
            return
        seen = self._labels.setdefault(call.name, labels.LabelsSeen())
        seen.add(call)
        only = seen.only()
        if only is not None:
            self._add(labels.all_the_same(only, seen, call, step, name))

    @staticmethod
    def _with_output(finding: Finding, model: ModelSeen | None) -> Finding:
        layers = model.layers if model is not None else []
        return dataclasses.replace(finding, affected=(layers[-1].path,)) if layers else finding

    def differentiates(self, loss: Any, site: Site) -> None:
        """``backward`` is about to run."""
        self._in_backward = True
        if self._off:
            return
        try:
            self._differentiates(loss, site)
        except Exception as error:
            self._fail(error)

    def _differentiates(self, loss: Any, site: Site) -> None:
        if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_meta:
            return
        recent = self._recent
        model = recent[-1] if recent else None
        if model is None or (loss.device.type != "cpu" and not self._open):
            return  # reading it would wait for the device
        value = loss.item()
        series = self._loss.get(site)
        if series is None:
            series = self._loss[site] = LossSeen(site, model.name)
        if not math.isfinite(value):
            if id(model) not in self._blamed:
                self._not_finite(model, loss, value, site)
        else:
            evidence = rules.spike(series, value)
            if evidence:
                self._spiked(model, evidence, site)
        if self._last_call is not None and self._num_loss_calls == 1 and self._open:
            series.chance = self._labels.get(self._last_call.name, labels.LabelsSeen()).chance(
                self._last_call.name
            )
        series.add(model.step, value)
        self._last_loss, self._last_site = weakref.ref(loss), site

    def differentiated(self) -> None:
        """``backward`` has run."""
        self._in_backward = False
        self._num_loss_calls = 0
        for model in self._recent:
            model.differentiated = True
            if not model.optimizers and model.step > 2:
                with self._safely():
                    self._probe(model)
        self._recent = []

    def _spiked(self, model: ModelSeen, evidence: str, site: Site) -> None:
        more, kind = "", ""
        usual = [one.rms for one in list(model.inputs)[:-1] if one.rms is not None]
        if model.call is not None and usual:
            first = next(
                (
                    one
                    for one in torch.utils._pytree.tree_leaves((model.call[1], model.call[2]))
                    if statistics.readable(one)
                ),
                None,
            )
            if first is not None:
                norm, scale = statistics.rms(statistics.rows_of(first))
                now, before = float(norm) * scale, sorted(usual)[len(usual) // 2]
                if before > 0 and not 0.2 < now / before < 5:
                    more, kind = f"; the batch's RMS is {rules.g(now)}, usually {rules.g(before)}", "batch"
        self._add(
            Finding(
                kind="loss spike",
                module=model.name,
                since=model.step,
                text=f"the loss of {model.name} jumps"
                + (", with a batch that is unlike the others" if kind else ""),
                evidence=evidence + more,
                fix="look at the batch" if kind else "clip the gradient's norm, or a smaller learning rate",
                code="torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # before optimizer.step()",
                file=site[0],
                line=site[1],
                model=model.name,
            )
        )

    # -- NaN and infinity -------------------------------------------------------------------------------

    def _not_finite(self, model: ModelSeen, loss: Tensor, value: float, site: Site) -> None:
        """Say where a loss that is not finite comes from."""
        self._blamed.add(id(model))
        what = "NaN" if math.isnan(value) else "infinite"
        module, args, kwargs = model.call or (None, (), {})
        if module is None:
            return
        broken = nonfinite.parameters_not_finite(module)
        if broken:
            self._add(self._broken_parameters(model, broken, what, site))
            return
        bad_inputs = nonfinite.inputs_not_finite(args, kwargs)
        if bad_inputs:
            layer = next(iter(model.layers), None)
            self._add(
                Finding(
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
            )
            return
        if self._last_call is not None:
            call = dataclasses.replace(self._last_call, site=site)
            finding = labels.check(call, model.step, model.name)
            if finding is not None and finding.text.find("probabilities") < 0:
                self._add(self._with_output(finding, model))
                return
        culprit, why = self._rerun(model, backward=False)
        if culprit is None:
            culprit = nonfinite.find_in_graph(loss, site)
        self._add(self._made_by(model, culprit, why, f"the loss is {what}", site))

    def _rerun(self, model: ModelSeen, *, backward: bool) -> tuple[nonfinite.Culprit | None, str]:
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
        self, model: ModelSeen, culprit: nonfinite.Culprit | None, why: str, what: str, site: Site
    ) -> Finding:
        if culprit is None:
            names = nonfinite.names_in_graph(self._last_loss)
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
        place = (
            culprit.site if culprit.site[0] else known.site if known is not None and known.site[0] else site
        )
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

    def _broken_parameters(self, model: ModelSeen, broken: list[str], what: str, site: Site) -> Finding:
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

    def _probe(self, model: ModelSeen) -> None:
        """Look at small gradients of a few layers: a NaN on its way back reaches those that it passes."""
        if id(model) in self._blamed or model.call is None:
            return
        if not model.probes:
            model.probes = _probes(model)
        start = time.perf_counter()
        affordable_s = _PROBING * self._budget.share * (start - self._budget.start_s) / (model.step + 1)
        whole = self._probing_s <= affordable_s or model.step < 4 or not model.step % _PROBE_EVERY
        if not whole and self._probing_s > affordable_s * len(model.probes):
            return  # even one would be too much
        wanted = model.probes if whole else model.probes[:1]
        gradients = [
            one.grad if one.grad.numel() <= _PROBED else one.grad.reshape(-1)[:_PROBED]
            for reference in wanted
            if (one := reference()) is not None and one.grad is not None and not one.grad.is_sparse
        ]
        total = math.fsum(_norms(gradients)) if gradients and gradients[0].device.type == "cpu" else 0.0
        if whole:  # the least that it took: the rest is what else the machine did
            took = time.perf_counter() - start
            self._probing_s = min(self._probing_s, took) if self._probing_s else took
        if math.isfinite(total) or all(bool(torch.isfinite(one).all()) for one in gradients):
            return
        self._blamed.add(id(model))
        culprit, why = self._rerun(model, backward=True)
        self._add(
            self._made_by(model, culprit, why, "the loss is finite, a gradient is not", self._last_site)
        )

    # -- steps of optimisers ------------------------------------------------------------------------------

    def step_begins(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser is about to step."""
        if self._off:
            return
        try:
            for model in self._trained_by(optimizer):
                self._probe(model)
                collector = self._open.get(id(model)) if self._open else None
                if collector is not None:
                    collector.before(optimizer)
                    self._note_gradients(model, optimizer)
                if self._trials is not None:
                    self._trials.step_begins(model, optimizer)
        except Exception as error:
            self._fail(error)

    def step_ended(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser has stepped."""
        if self._off:
            return
        try:
            models = self._trained_by(optimizer)
            if not models:
                reference, count, site = self._strangers.get(
                    id(optimizer), (weakref.ref(optimizer), 0, own_site(3))
                )
                self._strangers[id(optimizer)] = (reference, count + 1, site)
            for model in models:
                collector = self._open.get(id(model)) if self._open else None
                if collector is not None:
                    collector.after()
                    self._note_gradients(model, optimizer)
                model.stepped = True
                model.call = None
                if model.optimizers[0]() is optimizer:
                    model.step += 1
                    if model.step > self._num_steps:
                        self._num_steps = model.step
                    if model.step % _LOSS_EVERY == 0:
                        self._judge_losses()
        except Exception as error:
            self._fail(error)

    def _trained_by(self, optimizer: torch.optim.Optimizer) -> list[ModelSeen]:
        known = self._of_optimizer.get(id(optimizer))
        count = len(self._all)
        for group in optimizer.param_groups:
            count += 1000 * len(group["params"])
        if known is not None and known[0]() is optimizer and known[1] == count:
            return known[2]
        held = {id(one) for group in optimizer.param_groups for one in group["params"]}
        models = [model for model in self._all if not held.isdisjoint(model.parameters)]
        for model in models:
            if all(reference() is not optimizer for reference in model.optimizers):
                model.optimizers.append(weakref.ref(optimizer))
        if models:
            self._strangers.pop(id(optimizer), None)
        self._of_optimizer[id(optimizer)] = (weakref.ref(optimizer), count, models)
        return models

    @staticmethod
    def _note_gradients(model: ModelSeen, optimizer: torch.optim.Optimizer) -> None:
        held = {id(one) for group in optimizer.param_groups for one in group["params"]}
        for key, one in model.parameters.items():
            parameter = one.parameter()
            if parameter is None:
                continue
            one.num_looks += 1
            one.in_optimizer |= key in held
            one.had_gradient |= parameter.grad is not None

    def _judge_strangers(self) -> None:
        """An optimiser that trains nothing that was called, beside a model that nothing trains."""
        idle = [one for one in self._all if not one.optimizers and (one.differentiated or one.step > 0)]
        for reference, count, site in self._strangers.values():
            optimizer = reference()
            if optimizer is None or count < rules.NO_GRADIENT_LOOKS or not idle:
                continue
            parameters = [one for group in optimizer.param_groups for one in group["params"]]
            if any(one.grad is not None for one in parameters):
                continue
            model = idle[0]
            self._add(
                Finding(
                    kind="optimizer",
                    module=model.name,
                    since=0,
                    text=f"the optimiser that steps holds none of {model.name}'s parameters",
                    evidence=f"{count:,} steps of {type(optimizer).__name__} over {len(parameters)} parameters without "
                    f"a gradient; {len(model.parameters)} parameters of {model.name} in no optimiser",
                    fix="make the optimiser after the model, from the model that is called",
                    code=f"optimizer = torch.optim.{type(optimizer).__name__}({model.name}.parameters(), "
                    f"lr={optimizer.param_groups[0].get('lr', 1e-3)})",
                    file=site[0],
                    line=site[1],
                    model=model.name,
                )
            )

    # -- what is made of it -------------------------------------------------------------------------------

    def _finish(self, model: ModelSeen) -> None:
        """The sampled step is over: read it, and look for what is wrong."""
        collector = self._open.pop(id(model), None)
        if collector is None:
            return
        start = time.perf_counter()
        collector.finish()
        spent = collector.spent_s
        if id(model) not in self._blamed:  # of what follows NaN everything may be said
            streaks = self._streaks.setdefault(id(model), rules.Streaks())
            series = [one for one in self._loss.values() if one.model == model.name]
            hits = rules.hits_of(model, collector.step, series)
            self._add_all(streaks.persisting(collector.step, hits))
            self._add_all(rules.unreached(model))
        self._budget.add(spent + time.perf_counter() - start)

    def _judge_losses(self) -> None:
        alone = len(self._loss) == 1 and len(self._all) == 1
        for loss in self._loss.values():
            model = next((one for one in self._all if one.name == loss.model), None)
            if model is not None and id(model) not in self._blamed:
                series = [one for one in self._loss.values() if one.model == model.name]
                self._add_all(rules.updates(model, series))
                finding = rules.not_falling(model, loss, alone=alone)
                key = ("loss not falling", model.name)
                if finding is not None:
                    self._add(finding)
                elif loss.is_falling:
                    self._findings.pop(key, None)

    def _add_all(self, findings: Sequence[Finding]) -> None:
        for one in findings:
            self._add(one)

    def _add(self, finding: Finding) -> None:
        key = rules.key_of(finding)
        known = self._findings.get(key)
        if known is not None:
            if (
                known.module == finding.module
                and known.since <= finding.since
                and finding.kind not in ("loss spike", "nonfinite")
            ):
                self._findings[key] = dataclasses.replace(finding, since=known.since)
            return
        self._findings[key] = finding
        self._found(finding)

    @property
    def findings(self) -> list[Finding]:
        """What was found so far: causes before what they cause."""
        kinds = list(KINDS)
        return sorted(
            self._findings.values(), key=lambda one: (one.is_note, kinds.index(one.kind), one.since)
        )

    def report(self, *, error: str = "") -> Inspection:
        """Everything that was seen, as records."""
        findings = self.findings
        if self._trials is not None and not self._opened:
            findings = self._trials.tried(findings, self._all)
        return Inspection(
            findings=tuple(findings),
            modules=tuple(
                _record(model, seen)
                for model in self._all
                for seen in [*model.ordered, *model.functional.values()]
                if seen.samples
            ),
            losses=tuple(
                Curve(f"{one.model}, line {one.site[1]}", tuple(one.steps), tuple(one.values))
                for one in self._loss.values()
            ),
            gradients=tuple(self._gradient_curves()),
            num_steps=self._num_steps,
            num_samples=self._budget.num_samples,
            wall_s=self._wall_s or time.perf_counter() - self._budget.start_s,
            spent_s=self._budget.spent_s,
            error=error,
            notes=(*self._notes, *self._what_was_not_seen()),
        )

    def _what_was_not_seen(self) -> Iterator[str]:
        if not self._all:
            yield "no module with parameters was called with gradients on"
        elif not self._loss:
            yield "nothing was differentiated by backward()"
        elif not any(model.optimizers for model in self._all) and not self._strangers:
            yield "no optimiser of PyTorch's stepped: updates were not seen, and a step is a call after a backward pass"

    def _gradient_curves(self) -> Iterator[Curve]:
        count = 0
        for model in self._all:
            for seen in model.ordered:
                points = [
                    (one.step, one.gradient_rms) for one in seen.samples if one.gradient_rms is not None
                ]
                if seen.is_leaf and len(points) > 1 and count < _MAX_CURVES:
                    count += 1
                    yield Curve(
                        seen.path, tuple(step for step, _ in points), tuple(value for _, value in points)
                    )


def _has_mode() -> bool:
    """Whether a mode of the user's would see what we compute."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._is_tracing()
    )


def _probes(model: ModelSeen) -> list[weakref.ref[Tensor]]:
    """The smallest parameter of each layer, those of the first layer first."""
    smallest: dict[int, tuple[int, int, Tensor]] = {}
    for one in model.parameters.values():
        parameter = one.parameter()
        if parameter is None or parameter.grad is None or parameter.grad.is_sparse:
            continue
        order = one.owner.order if one.owner.order >= 0 else 1 << 30
        entry = (order, parameter.numel(), parameter)
        if id(one.owner) not in smallest or entry[:2] < smallest[id(one.owner)][:2]:
            smallest[id(one.owner)] = entry
    ranked = sorted(smallest.values(), key=lambda one: one[:2])
    every = max(1, -(-len(ranked) // _PROBES))
    return [weakref.ref(parameter) for _, _, parameter in ranked[::every]]


def _norms(gradients: list[Tensor]) -> list[float]:
    if len(gradients) == 1:
        return [gradients[0].sum().item()]
    return torch.stack([one.float() for one in torch._foreach_norm(gradients)]).tolist()


def _record(model: ModelSeen, seen: ModuleSeen) -> ModuleRecord:
    def last(name: str) -> float | None:
        return next(
            (value for one in reversed(seen.samples) if (value := getattr(one, name)) is not None), None
        )

    norm, module = last("weight_norm"), seen.module()
    count = (
        sum(one.numel() for one in module.parameters(recurse=False) if one.dim() > 1)
        if module is not None
        else 0
    )
    return ModuleRecord(
        path=seen.path,
        type_name=seen.type_name,
        model=model.name,
        file=seen.site[0],
        line=seen.site[1],
        activation_rms=last("activation_rms"),
        gradient_rms=last("gradient_rms"),
        weight_rms=norm / math.sqrt(count) if norm is not None and count else None,
        weight_gradient=last("own_gradient"),
        update_ratio=last("update_ratio"),
        dead_share=last("dead"),
        saturated_share=last("saturated"),
    )
