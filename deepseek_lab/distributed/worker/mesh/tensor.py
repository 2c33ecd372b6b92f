"""The layers of a model shared by ranks: found, split, and seen to compute what they did."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.worker.dress import Dress, attributes
from deepseek_lab.distributed.worker.mesh import trial
from deepseek_lab.distributed.worker.mesh.grid import Grid
from deepseek_lab.distributed.worker.mesh.search import Found, Group, search
from deepseek_lab.distributed.worker.mesh.slices import Cut
from deepseek_lab.distributed.worker.mesh.styles import Column, Columns, Heads, Row, Rows, Table, transposed

_MOST_REASONS = 6


@dataclasses.dataclass(frozen=True)
class Split:
    """What was split."""

    groups: tuple[Group, ...]
    reasons: dict[str, str]
    """Why other layers were not, by name."""
    num_bytes: int
    """That are added up over the ranks in an update, for the batch that was tried."""
    pass_s: float
    """What forward and backward pass took before, and ``tried_s`` what they took then."""
    tried_s: float


class Layers:
    """Splits the layers of models.

    Args:
        grid: Of the ranks.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._num = grid.mesh.tensor
        self.cut = Cut(self._num, grid.along("tensor"))
        self._tried_s = 0.0

    def split(self, root: nn.Module, call: Callable[[], Any], within: Sequence[nn.Module] = ()) -> Split:
        """Split what can be, and only what then gives the same outputs and gradients; called by all ranks.

        Args:
            root: A model whose parameters are the same on all ranks.
            call: Its first pass; the same data on the ranks that share its layers.
            within: Modules one of which has all layers of a group; where there are none, any layers may be together.

        Raises:
            TargetError: nothing can be split.
        """
        found = self._found(root, call, within)
        reasons = dict(found.reasons)
        parameters = list(root.parameters())
        with trial.unchanged(root), torch.enable_grad():
            began_s = time.perf_counter()
            expected = trial.passed(call, parameters)
            pass_s = time.perf_counter() - began_s
        good, why = self._checked(root, call, parameters, found.groups, expected)
        if not good and found.groups:
            kept = []
            for group in found.groups:
                fine, why = self._checked(root, call, parameters, [group], expected)
                if fine:
                    kept.append(group)
                reasons |= {} if fine else dict.fromkeys(group.names, why)
            good, why = self._checked(root, call, parameters, kept, expected)
            if not good:
                reasons |= {name: why for group in kept for name in group.names}
                kept = []
            found = Found(tuple(kept), reasons)
        if not found.groups:
            raise TargetError(
                f"no layers of {type(root).__name__} can be shared by {self._num} ranks{told(reasons)}",
                hint="%%deepseek distributed --strategy fsdp, or --strategy pipeline",
            )
        self._apply(root, found.groups)
        num_bytes, self.cut.num_bytes = self.cut.num_bytes or 0, None
        return Split(found.groups, reasons, num_bytes, pass_s, self._tried_s)

    def _found(self, root: nn.Module, call: Callable[[], Any], within: Sequence[nn.Module]) -> Found:
        """What all ranks find."""
        with trial.unchanged(root), torch.enable_grad():
            found = search(root, lambda: trial.seeded(call), self._num)
        everyone: list[Found] = self._grid.all_told(found)
        same = [group for group in everyone[0].groups if all(group in one.groups for one in everyone)]
        reasons = {name: why for one in everyone for name, why in one.reasons.items()}
        names = {module: name for name, module in root.named_modules()}
        inside = [names[one] for one in within]
        if within:
            apart = [group for group in same if not _inside(group, inside)]
            same = [group for group in same if group not in apart]
            reasons |= {name: "its layers are of several blocks" for group in apart for name in group.names}
        return Found(tuple(same), reasons)

    def _checked(
        self,
        root: nn.Module,
        call: Callable[[], Any],
        parameters: Sequence[Tensor],
        groups: Sequence[Group],
        expected: tuple[list[Tensor], list[Tensor | None]],
    ) -> tuple[bool, str]:
        """Whether the model gives what is expected when these are split, on all ranks; leaves it as it was."""
        if not groups:
            return True, ""
        with trial.unchanged(root), torch.enable_grad():
            undo, made_of = self._apply(root, groups)
            why = ""
            try:
                now = [made_of.get(id(one), one) for one in parameters]
                trial.passed(call, now)  # DTensor finds out once how operators are distributed
                self.cut.num_bytes, began_s = 0, time.perf_counter()
                outputs, gradients = trial.passed(call, now)
                self._tried_s = time.perf_counter() - began_s
                off = (
                    trial.furthest(outputs, expected[0])
                    if len(outputs) == len(expected[0])
                    else [float("inf")]
                )
                if max(off, default=0.0) > 1:
                    why = "what the model gives differed when it was split"
                elif max(trial.furthest(gradients, expected[1]), default=0.0) > 1:
                    why = "gradients differed when it was split"
            except Exception as error:
                why = f"{type(error).__name__} when it was split: {str(error).splitlines()[0] if str(error) else ''}"
            finally:
                undo()
                for one in parameters:
                    one.grad = None
        whys = [one for one in self._grid.all_told(why) if one]
        return not whys, whys[0] if whys else ""

    def _apply(
        self, root: nn.Module, groups: Sequence[Group]
    ) -> tuple[Callable[[], None], dict[int, nn.Parameter]]:
        """Split layers; gives what undoes it, and what parameters have become."""
        modules = dict(root.named_modules())
        before = [(part, type(part), attributes(part)) for part in root.modules()]
        kept = [(part, dict(part._parameters)) for part in root.modules()]
        plan: dict[str, ParallelStyle] = {}
        for group in groups:
            plan |= {name: self._column(modules[name], blocks) for name, blocks in group.columns}
            plan |= {name: self._row(modules[name]) for name in group.rows}
            plan |= {name: Heads(self.cut) for name in group.heads}
            plan |= {name: Table(self.cut) for name in group.tables}
            plan |= {name: Column(self.cut, alone=True) for name in group.wide}
        parallelize_module(root, self.cut.mesh, plan, src_data_rank=None)
        made: dict[int, nn.Parameter] = {}
        for part, own in kept:
            for name, one in own.items():
                now = part._parameters.get(name)
                if one is not None and now is not None and now is not one:
                    part._parameters[name] = made.setdefault(id(one), now)  # tied weights stay tied

        def undo() -> None:
            for part, kind, was in before:
                Dress(part, kind, was).take_off()
            for part, own in kept:
                part._parameters.clear()
                part._parameters.update(own)
            self.cut.forget()

        return undo, made

    def _column(self, module: nn.Module, blocks: int) -> ParallelStyle:
        own = blocks > 1 or transposed(module)
        return Columns(self.cut, blocks) if own else Column(self.cut)

    def _row(self, module: nn.Module) -> ParallelStyle:
        return Rows(self.cut) if transposed(module) else Row(self.cut)

    def replicate(self, root: nn.Module) -> dict[int, nn.Parameter]:
        """Have parameters that are whole on each rank be of the same kind as those that are split."""
        assert self.cut.mesh is not None
        made: dict[int, nn.Parameter] = {}
        for part in root.modules():
            for name, one in part._parameters.items():
                if one is not None and not isinstance(one, DTensor):
                    if id(one) not in made:
                        shard = DTensor.from_local(
                            one.detach(), self.cut.mesh, [Replicate()], run_check=False
                        )
                        made[id(one)] = nn.Parameter(shard, requires_grad=one.requires_grad)
                    part._parameters[name] = made[id(one)]
        return made


def _inside(group: Group, names: Sequence[str]) -> bool:
    """Whether one module has all layers of a group."""
    return any(all(f"{layer}.".startswith(f"{name}.") for layer in group.names) for name in names)


def told(reasons: dict[str, str]) -> str:
    """Reasons, those that are the same together, after a sentence."""
    by: dict[str, list[str]] = {}
    for name, why in reasons.items():
        by.setdefault(why, []).append(name)
    lines = []
    for why, names in list(by.items())[:_MOST_REASONS]:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"\n  {', '.join(name or 'the model itself' for name in names[:3])}{more}: {why}")
    return ":" + "".join(lines) if lines else ""
