"""Layers that are split: what of its parameters a rank has, and what it does when it is called.

Linear layers and embeddings are split by ``torch.distributed.tensor.parallel`` (Megatron-LM; Shoeybi et al.,
arXiv:1909.08053, section 3). Its styles know neither several blocks of columns in one layer, as queries, keys and
values often are, nor the layers of GPT-2 whose weights are transposed, nor ``nn.MultiheadAttention``: these compute
with their parts themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel
from torch.distributed.tensor.placement_types import _StridedShard

from deepseek_lab.distributed.worker.mesh.slices import Cut, Slice, wholes


class Column(ColwiseParallel):
    """A linear layer by columns; what it gives is cut, or whole where the layer stands alone.

    Args:
        cut: How.
        alone: Whether what it gives is put together.
    """

    def __init__(self, cut: Cut, *, alone: bool = False) -> None:
        super().__init__(output_layouts=Replicate() if alone else None)
        self._cut, self._alone = cut, alone
        self._prepare_input_fn, self._prepare_output_fn = self._enter, self._leave  # type: ignore[method-assign]

    def _enter(self, given: Any, wanted: Any, module: Any, inputs: Any, mesh: DeviceMesh) -> Any:
        (plain,) = wholes(inputs)
        return self._cut.replicated(plain)

    def _leave(self, layouts: Any, local: bool, module: Any, output: Any, mesh: DeviceMesh) -> Any:
        if self._alone:
            self._cut.note(output)
            return own(output.redistribute(placements=layouts).to_local())
        return Slice.of(output.to_local(), -1, self._cut)


class Row(RowwiseParallel):
    """A linear layer by rows; what it is given is cut, and the ranks' sums are added up."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self._cut = cut
        self._prepare_input_fn, self._prepare_output_fn = self._enter, self._leave  # type: ignore[method-assign]

    def _enter(self, given: Any, wanted: Any, module: Any, inputs: Any, mesh: DeviceMesh) -> Any:
        (one,) = inputs
        return DTensor.from_local(part_of_rows(one, self._cut), mesh, wanted, run_check=False)

    def _leave(self, layouts: Any, local: bool, module: Any, output: Any, mesh: DeviceMesh) -> Any:
        self._cut.note(output)
        return own(output.redistribute(placements=layouts).to_local())


class Table(Row):
    """An embedding, of which each rank has some of the words."""

    def __init__(self, cut: Cut) -> None:
        super().__init__(cut)
        self.input_layouts = (Replicate(),)

    def _enter(self, given: Any, wanted: Any, module: Any, inputs: Any, mesh: DeviceMesh) -> Any:
        (plain,) = wholes(inputs)
        return DTensor.from_local(plain, mesh, [Replicate()], run_check=False)


def part_of_rows(one: Tensor, cut: Cut) -> Tensor:
    """What a layer that is split by rows takes: it is cut already, or what all ranks have is cut now."""
    if isinstance(one, Slice) and one.at == len(one.sizes) - 1 and one.blocks in {None, 1}:
        return one.part
    return cut.part(wholes(one), -1, 1) if one.ndim == 1 else cut.part(wholes(one), one.ndim - 1, 1)


def local_of(parameter: Any) -> Tensor:
    """What this rank has of a parameter."""
    local: Tensor = parameter.to_local()
    return local


def summed(part: Tensor, cut: Cut) -> Tensor:
    """The sum of what all ranks have."""
    assert cut.mesh is not None
    cut.note(part)
    made = DTensor.from_local(part, cut.mesh, [Partial()], run_check=False)
    return own(made.redistribute(placements=[Replicate()]).to_local())


def own(one: Tensor) -> Tensor:
    """The same values in a tensor that may be written into: what DTensor gives is a view, which autograd guards."""
    return one.clone() if one.requires_grad else one


class _Own(ParallelStyle):
    """A style whose module computes with its parts, which stand in the place of its parameters meanwhile."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut

    def placements(self, module: nn.Module) -> dict[str, Placement]:
        """How parameters are distributed, by name."""
        raise NotImplementedError

    def enter(self, module: nn.Module, inputs: Any) -> Any:
        """What the module is called with."""
        raise NotImplementedError

    def leave(self, module: nn.Module, output: Any) -> Any:
        """What its call gives."""
        raise NotImplementedError

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        placements = self.placements(module)

        def partition(name: str, part: nn.Module, mesh: DeviceMesh) -> None:
            for key, one in list(part._parameters.items()):
                placement = placements.get(f"{name}.{key}" if name else key)
                if one is not None and placement is not None:
                    made = distribute_tensor(one, mesh, [placement], src_data_rank=self.src_data_rank)
                    part.register_parameter(key, nn.Parameter(made, requires_grad=one.requires_grad))

        made = distribute_module(module, device_mesh, partition, self._before, self._after)
        for part in made.modules():
            vars(part)["_distribute_module_applied"] = True
        return made

    def _before(self, module: nn.Module, inputs: Any, mesh: DeviceMesh) -> Any:
        return self.enter(module, inputs)

    def _after(self, module: nn.Module, output: Any, mesh: DeviceMesh) -> Any:
        return self.leave(module, output)


class _Linear(_Own):
    """A linear layer: ``nn.Linear``, or one of GPT-2 with transposed weights."""

    def show(self, module: nn.Module, **shown: Any) -> None:
        """Have the module see other things than what it has."""
        vars(module)["_deepseek_hidden"] = {key: vars(module)[key] for key in shown if key in vars(module)}
        vars(module).update(shown)
        vars(module)["_deepseek_shown"] = tuple(shown)

    def hide(self, module: nn.Module) -> None:
        """Have it see what it has."""
        for key in vars(module).pop("_deepseek_shown", ()):
            del vars(module)[key]
        vars(module).update(vars(module).pop("_deepseek_hidden", {}))


class Columns(_Linear):
    """A linear layer whose columns are blocks, each of which is cut.

    Args:
        cut: How.
        blocks: How many.
    """

    def __init__(self, cut: Cut, blocks: int) -> None:
        super().__init__(cut)
        self._blocks = blocks

    def placements(self, module: nn.Module) -> dict[str, Placement]:
        """Of weight and bias."""
        return {"weight": _along(int(transposed(module)), self._blocks), "bias": _along(0, self._blocks)}

    def enter(self, module: nn.Module, inputs: Any) -> Any:
        """What all ranks have, as it is."""
        self.hide(module)  # a call that raised has left them
        (plain,) = wholes(inputs)
        shown: dict[str, Any] = {
            key: local_of(one) for key, one in module._parameters.items() if isinstance(one, DTensor)
        }
        if transposed(module):
            shown["nf"] = module.nf // self._cut.parts  # type: ignore[operator]
        self.show(module, **shown)
        return self._cut.spread(plain)

    def leave(self, module: nn.Module, output: Any) -> Any:
        """This rank's columns."""
        self.hide(module)
        return Slice.of(output, -1, self._cut, blocks=self._blocks)


class Rows(_Linear):
    """A linear layer with transposed weights, by rows."""

    def placements(self, module: nn.Module) -> dict[str, Placement]:
        """Of weight and bias."""
        return {"weight": Shard(0 if transposed(module) else 1), "bias": Replicate()}

    def enter(self, module: nn.Module, inputs: Any) -> Any:
        """This rank's rows; the bias comes after the sum."""
        self.hide(module)
        (one,) = inputs
        shown: dict[str, Any] = {"weight": local_of(module._parameters["weight"])}
        if module._parameters.get("bias") is not None:
            local = local_of(module._parameters["bias"])
            shown["bias"] = torch.zeros_like(local)
            vars(module)["_deepseek_bias"] = local
        self.show(module, **shown)
        return part_of_rows(one, self._cut)

    def leave(self, module: nn.Module, output: Any) -> Any:
        """The sum of what all ranks have."""
        self.hide(module)
        bias = vars(module).pop("_deepseek_bias", None)
        made = summed(output, self._cut)
        return made if bias is None else made + bias


def transposed(module: nn.Module) -> bool:
    """Whether a layer is one of GPT-2's, whose weight is that of a linear layer transposed."""
    return type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")


def _along(dim: int, blocks: int) -> Placement:
    return Shard(dim) if blocks == 1 else _StridedShard(dim, split_factor=blocks)


class Heads(_Own):
    """``nn.MultiheadAttention`` by heads."""

    def placements(self, module: nn.Module) -> dict[str, Placement]:
        """Queries, keys and values are blocks of one weight."""
        return {
            "in_proj_weight": _along(0, 3),
            "in_proj_bias": _along(0, 3),
            "out_proj.weight": Shard(1),
            "out_proj.bias": Replicate(),
        }

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        made = super()._apply(module, device_mesh)
        from deepseek_lab.distributed.worker.mesh.attention import Attention

        vars(made)["forward"] = Attention(module, self._cut)
        return made

    def enter(self, module: nn.Module, inputs: Any) -> Any:
        """Whatever it is given, whole."""
        return wholes(inputs)

    def leave(self, module: nn.Module, output: Any) -> Any:
        """As it is."""
        return output
