"""ExecuTorch with the XNNPACK delegate."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_lab.engine.candidates import Candidate, NotApplicable, Program
from deepseek_lab.engine.lowering import export
from deepseek_lab.engine.problem import Problem, Spec


@contextlib.contextmanager
def without_lines_of(source: bytes) -> Iterator[None]:
    """Keep lines that name ``source`` out of standard error, which C++ writes to past Python.

    ExecuTorch's look at the processor reports each file of an ARM machine that it does not find on this one.
    Whatever else is written meanwhile arrives when this ends.
    """
    try:
        kept = os.dup(2)
    except OSError:  # a process without standard error
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            if rest := b"".join(line for line in held if source not in line):
                os.write(2, rest)


_CONVOLUTIONS = (torch.conv1d, torch.conv2d, F.conv1d, F.conv2d)


class ExecuTorchCandidate(Candidate):
    """Lowers the exported graph to XNNPACK; best on small convolutional networks."""

    name = "executorch"
    requires = ("executorch",)
    runs_dynamic = False
    order = 35
    long_to_build = True

    def build(self, problem: Problem, directory: Path) -> None:
        """Partition for XNNPACK and write a ``.pte`` file.

        Raises:
            NotApplicable: the graph has no convolution. XNNPACK took 12 to 36 s to build for each of the sixteen text
                models in ``tests/architectures`` and was behind every other candidate in all their races.
        """
        if not any(node.target in _CONVOLUTIONS for node in problem.graph.graph.nodes):
            raise NotApplicable("the graph has no convolution, and XNNPACK is slower than others at the rest")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        logging.getLogger("executorch").setLevel(logging.ERROR)
        program = to_edge_transform_and_lower(export(problem), partitioner=[XnnpackPartitioner()])
        with (directory / "model.pte").open("wb") as stream:
            program.to_executorch().write_to_file(stream)

    def load(self, directory: Path, spec: Spec) -> Program:
        """Load the program in ExecuTorch's runtime."""
        from executorch.runtime import Runtime

        with without_lines_of(b"cpuinfo_utils.cpp"):
            loaded = Runtime.get().load_program(directory / "model.pte")
            method = loaded.load_method("forward")
        assert method is not None

        def program(live: Sequence[Tensor], weights: Sequence[Tensor]) -> Sequence[Tensor]:
            results = method.execute([tensor.detach().contiguous() for tensor in live])
            return [result.clone() for result in results]

        return program

    def plan(self, spec: Spec) -> str:
        """The plan in ExecuTorch's words."""
        return (
            "method = executorch.runtime.Runtime.get().load_program('model.pte').load_method('forward')\n"
            "outputs = method.execute(inputs)\n"
        )


CANDIDATE = ExecuTorchCandidate()
