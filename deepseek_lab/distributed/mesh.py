"""Ranks as a grid: copies of the model, stages of a pipeline, and parts of its layers."""

from __future__ import annotations

import dataclasses
import re

from deepseek_lab.base.errors import UsageError, nearest

NAMES = ("data", "pipeline", "tensor")
"""Dimensions; ranks that share layers are next to each other, for they send the most."""
STRATEGIES = ("tensor", "pipeline")
_EACH = 4
"""Micro-batches for each stage: from there on a bubble is small (Huang et al., arXiv:1811.06965, section 2.3)."""
_PART = re.compile(r"([a-z]+)=(\d+)")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How many ranks in each dimension."""

    data: int = 1
    pipeline: int = 1
    tensor: int = 1
    micro_batches: int = 1
    """Parts of a batch that go through the stages one after the other."""

    @property
    def size(self) -> int:
        """All ranks."""
        return self.data * self.pipeline * self.tensor

    def place(self, rank: int) -> dict[str, int]:
        """Where a rank is, by dimension."""
        rest, tensor = divmod(rank, self.tensor)
        data, pipeline = divmod(rest, self.pipeline)
        return {"data": data, "pipeline": pipeline, "tensor": tensor}

    @property
    def bubble(self) -> float:
        """The part of an update in which a stage waits: (P - 1) / (M + P - 1), of stages that take equally long."""
        return (self.pipeline - 1) / (self.micro_batches + self.pipeline - 1)

    def __str__(self) -> str:
        found = ((name, getattr(self, name)) for name in NAMES)
        return ",".join(f"{name}={count}" for name, count in found if count > 1) or f"data={self.size}"


def parse(text: str) -> dict[str, int]:
    """Ranks by dimension, as in ``data=2,tensor=4``.

    Raises:
        UsageError: it is not such a text.
    """
    found: dict[str, int] = {}
    for part in text.replace(" ", "").split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise UsageError(f"--mesh does not know {part!r}", hint="--mesh data=2,tensor=2")
        name, count = match[1], int(match[2])
        if name not in NAMES:
            near = nearest(name, NAMES) or "tensor"
            raise UsageError(
                f"a mesh has no dimension {name!r}, but {', '.join(NAMES)}", hint=f"--mesh {near}={count}"
            )
        if name in found:
            raise UsageError(f"--mesh names {name} twice", hint=f"--mesh {name}={count}")
        if count < 1:
            raise UsageError(f"--mesh cannot have {name}={count}", hint=f"--mesh {name}=2")
        found[name] = count
    return found


def mesh_of(
    strategy: str | None, text: str | None, micro_batches: int | None, size: int | None
) -> Mesh | None:
    """What was asked for; None where it is another strategy.

    Args:
        strategy: As it was typed, if it was.
        text: Of ``--mesh``, if it was typed.
        micro_batches: As it was typed, if it was.
        size: How many ranks there are; None leaves that to the mesh.

    Raises:
        UsageError: the parts do not go together.
    """
    if text is None and strategy not in STRATEGIES:
        if micro_batches is not None:
            raise UsageError(
                "--micro-batches are what goes through the stages of a pipeline",
                hint=f"%%deepseek distributed --strategy pipeline --micro-batches {micro_batches}",
            )
        return None
    if strategy is not None and strategy not in STRATEGIES:
        raise UsageError(
            f"--strategy {strategy} has ranks in one dimension",
            hint=f"%%deepseek distributed --strategy {strategy}, or %%deepseek distributed --mesh {text}",
        )
    found = parse(text) if text is not None else {strategy or "": size or 2}
    mesh = Mesh(**found)
    if mesh.size == mesh.data:
        raise UsageError(
            f"--mesh {text} has copies of the whole model alone", hint="%%deepseek distributed --strategy ddp"
        )
    if strategy is not None and getattr(mesh, strategy) == 1:
        raise UsageError(
            f"--mesh {text} has no dimension {strategy}, which --strategy {strategy} is about",
            hint=f"--mesh {mesh}, or --mesh data={mesh.data},{strategy}={mesh.size // mesh.data}",
        )
    if size is not None and mesh.size != size:
        raise UsageError(
            f"--mesh {text} is for {mesh.size} ranks, and {size} run",
            hint=f"%deepseek ranks stop, then %deepseek ranks start -n {mesh.size}",
        )
    if mesh.pipeline == 1:
        if micro_batches is not None:
            raise UsageError(
                f"--micro-batches are for a pipeline, and --mesh {mesh} has none",
                hint=f"--mesh pipeline={mesh.size}",
            )
        return mesh
    if micro_batches is not None and micro_batches < 1:
        raise UsageError(f"--micro-batches cannot be {micro_batches}", hint="--micro-batches 8")
    return dataclasses.replace(mesh, micro_batches=micro_batches or _EACH * mesh.pipeline)
