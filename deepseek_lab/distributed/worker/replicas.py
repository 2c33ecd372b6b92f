"""Modules of a cell made data-parallel while it runs: the modules stay the user's own, DDP works around their calls.

The outermost call of any module with trainable parameters prepares its reducer, as the call of
``DistributedDataParallel(module)`` would; gradients are averaged during the backward pass, and the module keeps its
class, names and methods.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from deepseek_lab.base.errors import TargetError
from deepseek_lab.distributed.worker import feedback, states
from deepseek_lab.distributed.worker.apart import Apart
from deepseek_lab.distributed.worker.choice import WAYS, Choice
from deepseek_lab.distributed.worker.exchange import APART, INT8, LOW_RANK, Exchange
from deepseek_lab.distributed.worker.feedback import State
from deepseek_lab.distributed.worker.flight import flight
from deepseek_lab.distributed.worker.hosts import NAME, Hosts
from deepseek_lab.distributed.worker.local_steps import LocalSteps
from deepseek_lab.distributed.worker.vitals import Waits
from deepseek_lab.processes.travel import Returning

ERRORS, MOMENTUM = "what was left out of its gradients (error feedback)", "the momentum of the means"
_VELOCITY = "velocity"
_SILENT = 32
"""Updates by others after which the optimizer whose updates are timed is one of those."""


def _is_same_everywhere(module: nn.Module) -> bool:
    """Whether all ranks have the same parameters and buffers, as they have what came from the notebook.

    DDP would send all of them from rank 0 to each other rank again. Called by all ranks together.
    """
    tensors = [one.detach() for one in (*module.parameters(), *module.buffers())]
    told = hashlib.blake2b(digest_size=7)
    for one in tensors:
        told.update(f"{one.dtype} {tuple(one.shape)}".encode())
        if one.is_cpu and one.layout is torch.strided:
            told.update(one.contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            told.update(uuid.uuid4().bytes)  # not the same for certain
    number = int.from_bytes(told.digest())
    both = torch.tensor([number, -number])
    dist.all_reduce(both, dist.ReduceOp.MAX)
    return int(both[0]) == -int(both[1])


class _StateDicts:
    """Has a function called with each module that the cell asks for its ``state_dict()``.

    PyTorch has no hook for those of all modules, and one on a module of the cell would travel with it.
    """

    def __init__(self, called: Callable[[nn.Module], None]) -> None:
        self._original = original = nn.Module.state_dict

        @functools.wraps(original)
        def state_dict(module: nn.Module, *arguments: Any, **options: Any) -> Any:
            if not arguments and "destination" not in options:  # else it is a part of what was asked for
                called(module)
            return original(module, *arguments, **options)

        nn.Module.state_dict = state_dict  # type: ignore[assignment]

    def remove(self) -> None:
        nn.Module.state_dict = self._original  # type: ignore[method-assign]


class Replicas:
    """Data-parallel as long as it is open.

    Args:
        way: How gradients go between ranks: ``plain`` leaves that to DDP, ``auto`` chooses and ``exact`` chooses among
            exact ways (:mod:`deepseek_lab.distributed.worker.choice`), a name of
            :func:`deepseek_lab.distributed.worker.exchange.make` takes that way, and with ``local`` or ``diloco`` none
            goes: ranks agree on their parameters (:mod:`deepseek_lab.distributed.worker.local_steps`), which ``auto``
            tries too where ``every`` is given.
        every: Updates between two such agreements.
        adapts: Whether these are halved where the loss does not fall; as with ``auto``.
        loss: Gives the last loss of this rank, where there was one.
        waits: Held open where other ranks are waited for, beside the backward pass.
        hosts: Where the ranks are; where there are no layers ``exact`` is ``plain``.

    Raises:
        TargetError: the way is not for these hosts.
    """

    def __init__(
        self,
        way: str = "plain",
        every: int = 0,
        waits: Waits | None = None,
        hosts: Hosts | None = None,
        *,
        adapts: bool = False,
        loss: Callable[[], float | None] = lambda: None,
    ) -> None:
        if way == "exact" and (hosts is None or not hosts.layered):
            way = "plain"
        self._exchange: Exchange | None = None
        self.choice: Choice | None = None
        self._asked, self._every, self._adapts, self._loss = way, every, adapts, loss
        self._waits: contextlib.AbstractContextManager[Any] = waits or contextlib.nullcontext()
        if way != "plain":
            layers = way in {"auto", "exact", *APART} or way.startswith(NAME)
            self._exchange = Exchange(way, hosts if layers else None)
            if way in {"auto", "exact"}:
                self.choice = Choice(self._exchange, self._shapes, lossy=way == "auto", every=every)
        self._velocity: dict[int, torch.Tensor] = {}
        """Of a training that goes on, by the number of the parameter."""
        self._apart: Apart | None = None
        """While ranks train apart."""
        self._numbers: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        """Of optimizers, as they came, the same on all ranks."""
        self._num_optimizers = 0
        self._seen: dict[int, tuple[int, int]] = {}
        """By the number of an optimizer, what it and the models had when its parameters were last looked at."""
        self._last: int | None = None
        """The optimizer that has stepped last."""
        self._unsettled: set[int] = set()
        """Optimizers whose next gradients may be of a forward pass while ranks were apart, which are not averaged."""
        self._thread = threading.get_ident()
        self._inside = False
        """Whether a step goes on that calls the model."""
        self.num_steps = 0
        """Updates by all optimizers."""
        self.held: dict[str, tuple[int, int]] = {}
        """Where tensors are sharded, the bytes that this rank holds of them, and those that they are when whole."""
        self.plans: list[dict[str, Any]] = []
        """Of what was put on a mesh, one for each model (:class:`deepseek_lab.distributed.worker.mesh.told.Told`)."""
        self._first: int | None = None
        """The optimizer whose steps are timed, and how many steps others have made since."""
        self._others = 0
        self._wrapped: dict[int, DistributedDataParallel] = {}
        self._owners: dict[int, int] = {}
        """Parameter to the module that it was wrapped with."""
        self._depth = threading.local()
        self._handles: list[Any] = []
        self._weight: Callable[[], float] | None = None
        self._weighed: set[int] = set()
        """Parameters whose gradients are."""

    def __enter__(self) -> Replicas:
        self._handles = [
            module_hooks.register_module_forward_pre_hook(self._before),
            module_hooks.register_module_forward_hook(self._after, always_call=True),
            register_optimizer_step_pre_hook(self._steps),
            register_optimizer_step_post_hook(self._stepped),
            _StateDicts(self._look),
        ]
        flight.before = self._wait
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        if kind is None:
            self.agree()
        flight.before = None
        self._apart = None
        self._wrapped.clear()
        self._weighed.clear()
        if self._exchange is not None:
            self._exchange.close()
        gc.collect()  # a reducer's hooks on parameters end with it

    def weigh(self, weight: Callable[[], float]) -> None:
        """Multiply this rank's gradients by what this gives in their backward pass, before their mean is found."""
        self._weight = weight

    @property
    def state(self) -> State:
        """What ranks keep from one update to the next beside the cell's own objects; no copy."""
        if self._exchange is None:
            return State()
        state = self._exchange.state
        if self._apart is not None and (velocity := self._apart.velocity):
            state.common[_VELOCITY] = {(at,): one for at, one in velocity.items()}
        return state

    def take_up(self, state: State | None) -> list[str]:
        """Go on with what was kept; called by all ranks.

        Returns:
            What this rank goes on without.
        """
        if self._exchange is None:
            return []
        found, somebody = feedback.take_up(state)
        self._velocity = {key[-1]: one for key, one in found.common.get(_VELOCITY, {}).items()}
        ways = WAYS if self.choice is not None else INT8 if self._alone else (self._asked,)
        feeds_back = any("int8" in way or LOW_RANK.fullmatch(way) for way in ways)
        lost = []
        if not self._exchange.take_up(found, ways) and feeds_back and (somebody or self.choice is None):
            lost.append(ERRORS)
        if self._asked == "diloco" and state is None and not self._velocity:
            lost.append(MOMENTUM)
        return lost

    def gather(
        self, returning: Returning, wanted: Sequence[str], *, ends: bool
    ) -> tuple[dict[str, str], Callable[[], None]]:
        """Make everything whole that is to be packed, which here it is.

        Returns:
            Why some names cannot be packed, and what undoes it.
        """
        return {}, lambda: None

    def hint(self, error: str) -> str:
        """What to add to the text of an error that the cell raised."""
        return ""

    @property
    def modules(self) -> list[nn.Module]:
        """What was made data-parallel."""
        return [one.module for one in dict.fromkeys(self._wrapped.values())]

    @property
    def way(self) -> str:
        """How gradients go between ranks now."""
        return self._asked if self._exchange is None else self._exchange.way

    @property
    def every(self) -> int:
        """Updates between two means of parameters, now; 0 where there are none."""
        return self._apart.every if self._apart is not None else 0

    def agree(self) -> None:
        """Bring ranks together that have trained by themselves, in the middle of a round too.

        Called by all ranks after the same update.
        """
        if self._apart is not None:
            with self._waits:
                self._apart.agree(self._buffers)

    def _wait(self, group: Any) -> None:
        """The cell, or what stands around it, is about to call a collective."""
        if self._apart is not None and threading.get_ident() == self._thread and group is dist.group.WORLD:
            self._apart.wait()

    def _buffers(self) -> list[torch.Tensor]:
        return [one for module in self.modules for one in module.buffers()]

    def _shapes(self) -> list[torch.Size]:
        """Of the gradients that go between ranks."""
        return [one.shape for module in self.modules for one in module.parameters() if one.requires_grad]

    @property
    def _alone(self) -> bool:
        """Whether no gradients go between ranks from the next update on."""
        return self.way in APART

    def _part(self) -> None:
        """Go apart, or come together again, where that is due: between two updates."""
        if not self._alone:
            self._come_together()
        # The first update shows that there is an optimizer, whose updates can be counted.
        elif self._apart is None and self._exchange is not None and self._last is not None:
            self._unsettled.clear()
            self._seen.clear()
            self._apart = Apart(
                self._exchange,
                self._every,
                self._loss,
                self.num_steps,
                outer=self._asked == "diloco",
                adapts=self._adapts or self.choice is not None,
                velocity=self._velocity,
            )

    def _come_together(self) -> None:
        if self._apart is not None:
            with self._waits:
                self._apart.leave(self._buffers)
            self._unsettled = self._apart.numbers - {self._last}
            self._every, self._velocity, self._apart = self._apart.every, self._apart.velocity, None

    def _number(self, optimizer: Optimizer) -> int:
        if optimizer not in self._numbers:
            self._numbers[optimizer] = self._num_optimizers
            self._num_optimizers += 1
        return self._numbers[optimizer]

    def _trained(self, optimizer: Optimizer) -> list[torch.Tensor]:
        """What an optimizer updates of what goes between ranks."""
        return [one for group in optimizer.param_groups for one in group["params"] if id(one) in self._owners]

    def _steps(self, optimizer: Optimizer, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        # What is computed inside of a step, by a closure, is a part of this update.
        self._inside = any(map(callable, (*arguments, *options.values())))
        number = self._number(optimizer)
        if self._inside and self.choice is not None and self.choice.every:
            # Such an optimizer may keep what has no mean.
            self._come_together()
            self._first = number
            self.choice.stay_together()
        if self._inside and self._wrapped:
            self._part()
        if self._apart is not None:
            has = sum(len(group["params"]) for group in optimizer.param_groups), len(self._owners)
            if self._seen.get(number) != has:
                self._seen[number] = has
                if trained := self._trained(optimizer):
                    self._apart.begins(optimizer, number, trained)

    def _stepped(self, optimizer: Optimizer, *_: object) -> None:
        self.num_steps += 1
        self._inside = False
        self._last = number = self._number(optimizer)
        if self._apart is not None:
            with self._waits:
                self._apart.stepped(optimizer, self._buffers)
        elif number in self._unsettled:
            self._settle(optimizer)
        if self.choice is not None:
            self._others += 1
            if self._first is None or self._others > _SILENT:
                self._first = number
            if number == self._first:
                self._others = 0
                self.choice.stepped(self._apart)

    def _settle(self, optimizer: Optimizer) -> None:
        """Its gradients were each rank's own: make what it has come to the same on all."""
        assert self._exchange is not None
        number = self._numbers[optimizer]
        self._unsettled.discard(number)
        steps = LocalSteps(self._exchange)
        with self._waits:
            steps.mean_of(self._trained(optimizer))
            states.agree(steps, {number: optimizer})

    def _before(self, module: nn.Module, arguments: Any) -> None:
        depth = getattr(self._depth, "value", 0)
        self._depth.value = depth + 1
        if depth:
            return
        if not torch.is_grad_enabled():
            self._look(module)
            return
        replica = self._replica(module)
        if replica is not None:
            if not self._inside:
                self._part()
            # Apart, buffers are averaged with the parameters.
            replica.require_backward_grad_sync = replica.require_forward_param_sync = self._apart is None
            with self._waits:  # buffers are sent
                replica._pre_forward(*arguments)

    def _look(self, module: nn.Module) -> None:
        """The cell evaluates, or takes what is to be kept: that is to be what all ranks have come to."""
        if self._apart is None or not self._apart.differ or threading.get_ident() != self._thread:
            return
        if any(id(one) in self._owners for one in module.parameters()):
            with self._waits:
                self._apart.agree(self._buffers, looks=True)

    def _after(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        self._depth.value = getattr(self._depth, "value", 1) - 1
        if self._depth.value or output is None or not torch.is_grad_enabled():
            return None
        replica = self._wrapped.get(id(module))
        return None if replica is None else replica._post_forward(output)

    def _weigh(self, parameters: Sequence[nn.Parameter]) -> None:
        weight = self._weight
        if weight is None:
            return

        def weighed(gradient: torch.Tensor | None) -> torch.Tensor | None:
            by = weight()
            return gradient if by == 1 or gradient is None else gradient * by

        new = [one for one in parameters if id(one) not in self._weighed]
        self._handles += [one.register_hook(weighed) for one in new]
        self._weighed |= {id(one) for one in new}

    def _unwrap(self, module: nn.Module) -> None:
        """Parameters of a module are trained that were not at first, and DDP knows those of the beginning alone."""
        self._come_together()
        old = self._wrapped[id(module)]
        self._wrapped = {key: one for key, one in self._wrapped.items() if one is not old}
        for one in old.parameters():
            self._owners.pop(id(one), None)
        del old
        gc.collect()

    def _replica(self, module: nn.Module) -> DistributedDataParallel | None:
        if isinstance(module, DistributedDataParallel):
            return None  # the user's own
        trained = [one for one in module.parameters() if one.requires_grad]
        if id(module) in self._wrapped:
            if all(id(one) in self._owners for one in trained):
                return self._wrapped[id(module)]
            self._unwrap(module)
        if not trained:
            return None
        owners = {self._owners.get(id(one)) for one in trained}
        if owners == {None}:
            made = DistributedDataParallel(
                module, find_unused_parameters=True, init_sync=not _is_same_everywhere(module)
            )
            if self._exchange is not None:
                self._exchange.install(made)
            self._owners |= {id(one): id(module) for one in trained}
            self._weigh(trained)
        elif len(owners) == 1:
            made = self._wrapped[owners.pop() or 0]  # a part of what is wrapped already
        else:
            raise TargetError(
                f"{type(module).__name__} is called as a whole after a part of it was called by itself, so that its "
                "gradients would be averaged twice",
                hint="call the part inside of the module's forward, or under torch.no_grad()",
            )
        self._wrapped[id(module)] = made
        return made
