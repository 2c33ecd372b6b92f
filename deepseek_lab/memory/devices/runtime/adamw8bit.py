"""AdamW with moments of one byte a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.distributed.tensor import DTensor


def local_of(value: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


def dynamic_map(signed: bool) -> torch.Tensor:
    """The 256 values of the dynamic tree data type (arXiv:2110.02861, section 1.3), ascending in [-1, 1]."""
    values = [0.0, 1.0]
    for exponent in range(7):
        count = 2 ** (exponent + (not signed))
        middles = [10.0 ** (exponent - 6) * (0.1 + 0.9 * (at + 0.5) / count) for at in range(count)]
        values += middles + [-value for value in middles] * signed
    return torch.tensor(sorted(values), dtype=torch.float32)


_LOWEST = (127 - 24) << 10
_PLACES = (24 << 10) + 1


def _place(shares: torch.Tensor) -> torch.Tensor:
    """Where in a table of codes a value of [-1, 1] stands: its sign, exponent from 2^-24 on, and 10 bits of mantissa.

    A table is looked up about twenty times as fast as the values are searched, and moves the border between two codes
    by less than a thousandth.
    """
    bits = shares.view(torch.int32)
    place = bits.bitwise_and(0x7FFFFFFF).bitwise_right_shift_(13).sub_(_LOWEST).clamp_(0, _PLACES - 1)
    return place.sub_(bits.bitwise_right_shift(31), alpha=_PLACES)


def _nearest_codes(values: torch.Tensor) -> torch.Tensor:
    """The code nearest to the middle of each place: 2 x 24,577 bytes."""
    places = torch.arange(_LOWEST, _LOWEST + _PLACES, dtype=torch.int32, device=values.device)
    middles = places.bitwise_left_shift(13).bitwise_or_(1 << 12).view(torch.float32)
    both = torch.cat([middles, -middles])
    return torch.bucketize(both, (values[1:] + values[:-1]) / 2, out_int32=True).to(torch.uint8)


_shared: dict[torch.device, tuple[torch.Tensor, ...]] = {}
"""Where each parameter has an optimiser of its own, all look up the same tables."""


def _tables(device: torch.device) -> tuple[torch.Tensor, ...]:
    """Values by code, and codes by place, for both moments."""
    real = type(torch.empty(0, device=device)) is torch.Tensor
    if real and device in _shared:
        return _shared[device]
    both = [dynamic_map(signed).to(device) for signed in (True, False)]
    made = tuple(each for one in both for each in (one, _nearest_codes(one)))
    if real:
        _shared[device] = made
    return made


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101) whose two moments are quantised in blocks of 256 values with a scale each, by
    Dettmers et al., 8-bit Optimizers via Block-wise Quantization (arXiv:2110.02861): 2.03 bytes a parameter
    instead of 8. Parameters below 4,096 values keep moments in float32, as the paper advises.

    The arithmetic is float32 on slabs of ``slab`` values, so that it needs little room besides. bfloat16 parameters
    are rounded stochastically (arXiv:2010.06192), without which small updates would be lost. Sharded parameters
    (DTensor) are updated in place, each rank its own part.

    >>> weight = torch.nn.Parameter(torch.ones(64, 64))
    >>> optimizer = AdamW8bit([weight], lr=0.1, weight_decay=0.0)
    >>> weight.square().sum().backward()
    >>> optimizer.step()
    >>> round(weight.mean().item(), 3)
    0.9
    """

    BLOCK = 256
    SMALL = 4096
    LOOKED_UP = 256
    """Blocks whose codes are looked up at a time."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        slab: int = 1 << 22,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.slab = max(self.BLOCK, slab // self.BLOCK * self.BLOCK)
        self._maps: dict[torch.device, tuple[torch.Tensor, ...]] = {}
        self._random: dict[torch.device, torch.Generator] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As ever; codes and scales keep their types, which the base class would cast to the parameter's."""
        super().load_state_dict(state_dict)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, saved in state_dict["state"].items():
            device = local_of(parameters[index]).device
            self.state[parameters[index]] = {
                name: value.to(device, copy=True) if isinstance(value, torch.Tensor) else value
                for name, value in saved.items()
            }

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        weight, gradient = local_of(parameter), local_of(parameter.grad)  # type: ignore[arg-type]
        if gradient.stride() != weight.stride():
            gradient = torch.empty_like(weight).copy_(gradient)
        count = weight.numel()
        flat, flat_gradient = weight.as_strided((count,), (1,)), gradient.as_strided((count,), (1,))
        state = self.state[parameter]
        if not state:
            self._begin(state, count, weight.device)
        state["step"] += 1
        for start in range(0, count, self.slab):
            part = slice(start, min(start + self.slab, count))
            self._update_slab(flat[part], flat_gradient[part], state, part, group)

    def _begin(self, state: dict[str, Any], count: int, device: torch.device) -> None:
        state["step"] = 0
        for name in ("exp_avg", "exp_avg_sq"):
            if count < self.SMALL:
                state[name] = torch.zeros(count, device=device)
                continue
            state[name] = torch.zeros(count, dtype=torch.uint8, device=device)
            state[f"{name}_scale"] = torch.zeros(-(-count // self.BLOCK), device=device)

    def _update_slab(
        self,
        weight: torch.Tensor,
        gradient: torch.Tensor,
        state: dict[str, Any],
        part: slice,
        group: dict[str, Any],
    ) -> None:
        (beta1, beta2), rate, step = group["betas"], group["lr"], state["step"]
        gradient = gradient.float()
        first = self._read(state, "exp_avg", part).lerp_(gradient, 1 - beta1)
        self._write(state, "exp_avg", part, first)
        second = (
            self._read(state, "exp_avg_sq", part).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        )
        del gradient
        self._write(state, "exp_avg_sq", part, second)
        update = second.sqrt_().div_((1 - beta2**step) ** 0.5).add_(group["eps"]).reciprocal_().mul_(first)
        exact = weight.float() if weight.dtype != torch.float32 else weight
        exact.mul_(1 - rate * group["weight_decay"]).add_(update, alpha=-rate / (1 - beta1**step))
        if weight.dtype == torch.bfloat16:
            weight.copy_(self._rounded(exact))
        elif exact is not weight:
            weight.copy_(exact)

    def _read(self, state: dict[str, Any], name: str, part: slice) -> torch.Tensor:
        """A moment in float32."""
        codes: torch.Tensor = state[name][part]
        if codes.dtype != torch.uint8:
            return codes.clone()
        values = self._map(codes.device, name)[0].index_select(0, codes.int())
        scales = state[f"{name}_scale"][part.start // self.BLOCK : -(-part.stop // self.BLOCK)]
        whole = codes.numel() // self.BLOCK * self.BLOCK
        values[:whole].view(-1, self.BLOCK).mul_(scales[: whole // self.BLOCK, None])
        values[whole:].mul_(scales[-1:])
        return values

    def _write(self, state: dict[str, Any], name: str, part: slice, values: torch.Tensor) -> None:
        """Round a moment to the nearest codes; the largest value of a block is exact."""
        codes = state[name][part]
        if codes.dtype != torch.uint8:
            codes.copy_(values)
            return
        scales = state[f"{name}_scale"][part.start // self.BLOCK : -(-part.stop // self.BLOCK)]
        whole = codes.numel() // self.BLOCK * self.BLOCK
        for some, scale in (
            (slice(0, whole), scales[: whole // self.BLOCK, None]),
            (slice(whole, None), scales[whole // self.BLOCK :, None]),
        ):
            if not (count := values[some].numel()):
                continue
            blocks = values[some].view(-1, min(self.BLOCK, count))
            scale.copy_(blocks.abs().amax(dim=1, keepdim=True))
            table = self._map(codes.device, name)[1]
            # A few blocks at a time: what the look-up makes is small beside the moments themselves.
            for few, by, to in zip(
                blocks.split(self.LOOKED_UP),
                scale.split(self.LOOKED_UP),
                codes[some].split(self.LOOKED_UP * blocks.shape[1]),
                strict=True,
            ):
                to.copy_(table.index_select(0, _place((few / by.clamp_min(1e-38)).view(-1))))

    def _map(self, device: torch.device, name: str) -> tuple[torch.Tensor, ...]:
        """Values by code, and the nearest code for each place, for both moments."""
        if device not in self._maps:
            self._maps[device] = _tables(device)
        return self._maps[device][:2] if name == "exp_avg" else self._maps[device][2:]

    def _rounded(self, exact: torch.Tensor) -> torch.Tensor:
        """float32 whose lower half is rounded up as often as it is large."""
        if exact.device not in self._random:
            self._random[exact.device] = torch.Generator(exact.device).manual_seed(0)
        random = torch.randint(
            1 << 16,
            exact.shape,
            dtype=torch.int32,
            device=exact.device,
            generator=self._random[exact.device],
        )
        return random.add_(exact.view(torch.int32)).bitwise_and_(-65536).view(torch.float32)
