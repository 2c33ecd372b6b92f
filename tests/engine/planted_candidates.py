"""Candidates of a stranger: one that is truly fast and right, and others that each break one promise.

This file stands by itself in a folder of its own (see ``conftest.py``), beside the metadata that an installed
distribution has; the engine finds it through its entry points, here and in the builder process.
"""

import ctypes
import operator
import os
import time

import torch

from deepseek_lab.engine import wire
from deepseek_lab.engine.candidates import Candidate


def _negates(node):
    return isinstance(node, torch.fx.Node) and node.target in (operator.neg, torch.neg, "neg")


def without_double_negations(graph):
    """A copy of a graph in which ``-(-x)`` is ``x``."""
    graph = wire.from_bytes(wire.to_bytes(graph))
    for node in graph.graph.nodes:
        if _negates(node) and _negates(node.args[0]):
            node.replace_all_uses_with(node.args[0].args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


class Fast(Candidate):
    """Right and fast: cancels double negations and keeps copies of the weights."""

    name = "planted-fast"
    order = 1

    def build(self, problem, directory):
        (directory / "builder.txt").write_text(str(os.getpid()))
        (directory / "graph.bin").write_bytes(wire.to_bytes(without_double_negations(problem.graph)))
        torch.save([weight.clone() for weight in problem.weights], directory / "weights.pt")

    def load(self, directory, spec):
        graph = wire.from_bytes((directory / "graph.bin").read_bytes())
        baked = torch.load(directory / "weights.pt")

        def program(live, weights):
            own, rest = iter(baked), iter(live)
            with torch.no_grad():
                result = graph(*[next(own) if weight else next(rest) for weight in spec.is_weight])
            return tuple(result) if isinstance(result, tuple | list) else (result,)

        return program

    @staticmethod
    def in_builder(directory):
        return (directory / "builder.txt").read_text() == str(os.getpid())


class Wrong(Fast):
    name = "planted-wrong"

    def load(self, directory, spec):
        program = super().load(directory, spec)
        return lambda live, weights: [
            out + 0.01 if out.is_floating_point() else out for out in program(live, weights)
        ]


class Forgetful(Fast):
    """Right at its first call, wrong afterwards."""

    name = "planted-forgetful"

    def load(self, directory, spec):
        program, calls = super().load(directory, spec), []

        def forgetful(live, weights):
            calls.append(None)
            return [out * (1.0 if len(calls) == 1 else 0.9) for out in program(live, weights)]

        return forgetful


class Slower(Fast):
    name = "planted-slower"

    def build(self, problem, directory):
        super().build(problem, directory)
        (directory / "graph.bin").write_bytes(wire.to_bytes(problem.graph))

    def load(self, directory, spec):
        program = super().load(directory, spec)
        return lambda live, weights: [program(live, weights) for _ in range(3)][-1]


class RaisesLater(Fast):
    """Perfect in the builder; raises at its second call in the user's process."""

    name = "planted-raises-later"

    def load(self, directory, spec):
        program, calls, watched = super().load(directory, spec), [], self.in_builder(directory)

        def raises(live, weights):
            calls.append(None)
            if not watched and len(calls) >= 2:
                raise RuntimeError("the second call is one too many")
            return program(live, weights)

        return raises


class Unloadable(Fast):
    name = "planted-unloadable"

    def load(self, directory, spec):
        if not self.in_builder(directory):
            raise OSError("a library that only the builder has is missing")
        return super().load(directory, spec)


class Scribbler(Fast):
    """Returns the right values and leaves others in its inputs."""

    name = "planted-scribbler"

    def load(self, directory, spec):
        program = super().load(directory, spec)

        def scribbles(live, weights):
            outputs = program(live, weights)
            for tensor in live:
                tensor.numpy()[...] = 0
            return outputs

        return scribbles


class SameMemory(Fast):
    """Writes every result into the same memory, so that a later call changes what an earlier one returned."""

    name = "planted-same-memory"

    def load(self, directory, spec):
        program, kept = super().load(directory, spec), []

        def overwrites(live, weights):
            outputs = program(live, weights)
            if not kept:
                kept.extend(outputs)
            for old, new in zip(kept, outputs, strict=True):
                old.copy_(new)
            return [old.view_as(old) for old in kept]

        return overwrites


class SharesInput(Fast):
    """Hands an input's memory out as a result where the values happen to be the same."""

    name = "planted-shares-input"

    def load(self, directory, spec):
        program = super().load(directory, spec)

        def shares(live, weights):
            outputs = program(live, weights)
            return [
                next((t for t in live if t.shape == out.shape and torch.equal(t, out)), out)
                for out in outputs
            ]

        return shares


class Hung(Fast):
    name = "planted-hung"

    def build(self, problem, directory):
        time.sleep(3600)


class Crashing(Fast):
    name = "planted-crashing"

    def build(self, problem, directory):
        ctypes.string_at(0)


class CrashingInRace(Fast):
    """Dies at its twelfth call, which is in the race."""

    name = "planted-crashing-later"

    def load(self, directory, spec):
        program, calls = super().load(directory, spec), []

        def crashes(live, weights):
            calls.append(None)
            if len(calls) == 12:
                os.abort()
            return program(live, weights)

        return crashes


class Hungry(Fast):
    name = "planted-hungry"

    def build(self, problem, directory):
        held = []
        while True:
            held.append(torch.empty(1 << 26))


class Raising(Fast):
    name = "planted-raising"

    def build(self, problem, directory):
        raise ValueError("this operation is beyond me\nand more lines\nof detail")


class Filling(Fast):
    """Writes until the disk is full."""

    name = "planted-filling"

    def build(self, problem, directory):
        with (directory / "big.bin").open("wb") as stream:
            while True:
                stream.write(bytes(1 << 20))
                stream.flush()


class Counted(Fast):
    """Notes each of its builds in the file that an environment variable names."""

    name = "planted-counted"

    def build(self, problem, directory):
        with open(os.environ["PLANTED_COUNT"], "a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(1.0)
        super().build(problem, directory)


class Lesser(Slower):
    """Does less than the slower one."""

    name = "planted-lesser"
    order = 60
    outdone_by = "planted-slower"


class Long(Slower):
    """Would be long to build for a large graph."""

    name = "planted-long"
    order = 61
    long_to_build = True


class Tiring(Fast):
    """Is fast until another candidate runs in the same process."""

    name = "planted-tiring"
    tired = False

    def load(self, directory, spec):
        program = super().load(directory, spec)

        def tires(live, weights):
            for _ in range(10 if Tiring.tired else 0):
                program(live, weights)
            return program(live, weights)

        return tires


class Steady(Fast):
    """Is no match for what is fast and beats what is tired."""

    name = "planted-steady"
    order = 2

    def load(self, directory, spec):
        program = super().load(directory, spec)

        def steady(live, weights):
            Tiring.tired = True
            for _ in range(3):
                program(live, weights)
            return program(live, weights)

        return steady
