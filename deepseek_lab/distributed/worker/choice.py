"""The way in which gradients go between ranks, chosen in the first updates of a training itself.

Ranks begin apart where they may, with means of their parameters every few updates: that is the fastest of all where
most of an update is communication, and costs nothing to find out. Of the others what cannot win is ruled out by what
the link and the arithmetic were measured to take at least; what is left is tried in an update or a few, and what is not
far from the fastest then takes turns, in real updates. All ranks come to the same choice, for what each measures is
averaged.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Generator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from deepseek_lab.distributed.worker import low_rank
from deepseek_lab.distributed.worker.apart import Apart
from deepseek_lab.distributed.worker.exchange import INT8, LOW_RANK, NUM_THREADS, Exchange
from deepseek_lab.distributed.worker.hosts import NAME

RANKS = (32, 8, 4)
EXACT = ("plain", NAME)
WAYS = (*EXACT, "bf16", f"{NAME}-bf16", "int8", f"{NAME}-int8", *(f"powersgd-{rank}" for rank in RANKS))
"""From the one that changes least to the one that changes most."""
LOCAL = "local"
"""Beside them: means of parameters, as int8 codes, every few updates."""
_MORE = 1 / 40
"""For the same loss, so many more updates are needed for each between two means."""
_AT_LEAST = 0.4
"""What a mean of gradients takes of one of parameters, at least: parts of it go during the backward pass."""
_ROUNDS, _MOST_ROUNDS = 4, 16
_LONG_ENOUGH_S = 1.0
"""Ways take so many turns at least, and more where these are over sooner: short updates vary more."""
_TRIES_S, _MOST_TRIES = 0.05, 4
"""One update says little where it is short: ways are tried for so long before those that cannot win are left."""
_WORTH = 0.95
"""A way that changes more has to take so much less."""
_HOPEFUL = 1.4
_DOUBT, _MORE_DOUBT = 0.7, 0.4
"""What a way is expected to take may be so much too long: there is what int8 computes in it. Where updates are short
that is not all, and exact gradients are to be left out only where they are slower for certain.
"""
_MESSAGES = 3
"""One after the other that factors of low rank need: two for factors, one for what is no matrix."""
_PRODUCTS = 4 / NUM_THREADS
"""Two to find the factors, two to take them off and to put them together; on as many threads."""
_PROBES = (16_384, 131_072, 1_048_576)
"""Values sent to see how fast the link is; more only where fewer took no time."""
_LONG_S = 0.02
_Search = Generator[str, float, None]


class Choice:
    """Finds the way with which updates are fastest.

    Args:
        exchange: Whose way is set.
        shapes: Gives the shapes of the gradients, when an update has been made.
        lossy: Whether gradients may be changed on their way.
        every: Updates between two means of parameters, where ranks may train apart; else 0.
    """

    def __init__(
        self,
        exchange: Exchange,
        shapes: Callable[[], Sequence[torch.Size]],
        *,
        lossy: bool = True,
        every: int = 0,
    ) -> None:
        self._exchange, self._shapes = exchange, shapes
        self._ways = [
            way for way in (WAYS if lossy else EXACT) if exchange.layered or not way.startswith(NAME)
        ]
        self.seconds: dict[str, float] = {}
        """Of an update, by way; empty until it is decided."""
        self.expected: set[str] = set()
        """Ways whose seconds are what the link was measured to allow, for nothing was sent that way."""
        self._apart: Apart | None = None
        self._agreed_s, self._num_agreed = 0.0, 0
        """Of means of parameters since the update before."""
        self._alone_s = self._mean_s = math.inf
        """Of an update apart without a mean, and of a mean."""
        self._looked = 0.0
        """Means for each update, where the cell evaluates more often than rounds end."""
        self.every = every
        """Updates between two means, as they were when that was chosen or last looked at."""
        search = self._find(every) if lossy else self._find_exact()
        self._search: _Search | None = search
        self._began_s = 0.0
        exchange.way = next(search)

    def stepped(self, apart: Apart | None = None) -> None:
        """An update is done, on all ranks; with ``apart`` while they train apart."""
        self._apart = apart
        self._agreed_s, self._num_agreed = apart.means() if apart is not None else (0.0, 0)
        if self._search is None and apart is not None and apart.every != self.every:
            self.every = apart.every
            if self._apart_s > min(one for way, one in self.seconds.items() if way != LOCAL):
                self._search = self._find(0)
                self._exchange.way = next(self._search)
        elif self._search is not None:
            try:
                self._exchange.way = self._search.send(time.perf_counter() - self._began_s)
            except StopIteration:
                self._search = None
        self._began_s = time.perf_counter()

    def stay_together(self) -> None:
        """Ranks cannot train apart any more; called when they do not."""
        if self.every:
            self.every = 0
            self._alone_s = self._mean_s = math.inf
            self._search = self._find(0)
            self._exchange.way = next(self._search)

    @property
    def _apart_s(self) -> float:
        return self._alone_s + self._mean_s * max(1 / max(1, self.every), self._looked)

    def _find(self, every: int) -> _Search:
        """Yields the way of the next update and is given the seconds that it took."""
        tried: dict[str, float] = {}
        least: dict[str, float] = {}
        if every:
            yield from self._train_apart(every)
        if math.isfinite(self._apart_s):
            tried[LOCAL] = self._apart_s
            least = self._at_least()
            if every and self._to_beat(tried) <= min(least.values()):
                self._tell(tried, least, LOCAL, *INT8)
                return
            alone_s, int8_s = self._alone_s, self._alone_s + self._mean_s
            codes = INT8[self._exchange.layered]  # as means went
        else:
            int8_s, alone_s = yield from self._try_int8()
            tried[codes := "int8"] = int8_s
        num_tries = _num_tries(int8_s)
        expected = self._expect(alone_s) | {codes: int8_s}
        careful = {way for way in expected if way in EXACT and num_tries > 1}
        left = [way for way in expected if way not in tried]
        while left:
            left.remove(way := min(left, key=lambda way: expected[way]))
            doubt = _MORE_DOUBT if way in careful else _DOUBT
            if max(doubt * expected[way], least.get(way, 0.0)) < self._to_beat(tried):
                tried[way] = yield from self._try(way, num_tries)
                if LOW_RANK.fullmatch(way):  # what it computes beside products, others of its kind do too
                    more_s = max(0.0, tried[way] - expected[way])
                    expected |= {one: expected[one] + more_s for one in left if LOW_RANK.fullmatch(one)}
        best_s = min((taken_s for way, taken_s in tried.items() if way != LOCAL), default=math.inf)
        if self._to_beat(tried) < best_s:
            self._tell(tried, expected, LOCAL, *INT8)
            return
        exact = careful & tried.keys()
        hopeful = [way for way in self._ways if way in exact or tried.get(way, math.inf) <= _HOPEFUL * best_s]
        if len(hopeful) > 1:
            tried |= yield from self._take_turns(hopeful)
        self._tell(tried, expected, _first_of_the_fastest({way: tried[way] for way in hopeful}))

    def _to_beat(self, tried: dict[str, float]) -> float:
        """Seconds of the fastest way so far; what needs more updates counts as slower."""
        more = {LOCAL: 1 + _MORE * self.every}
        return min((more.get(way, 1.0) * taken_s for way, taken_s in tried.items()), default=math.inf)

    def _tell(self, tried: dict[str, float], expected: dict[str, float], way: str, *uses: str) -> None:
        """It is decided."""
        self.seconds = expected | tried
        self.expected = expected.keys() - tried.keys()
        self._exchange.keep(way, *uses)

    def _try_int8(self) -> Generator[str, float, tuple[float, float]]:
        """Seconds of an update with int8 codes, and of what it takes alone."""
        yield "int8"  # the first time it makes what it keeps
        taken_s = yield "int8"
        int8_s, waited_s = _agreed([taken_s, self._exchange.waited_s])
        if (num_tries := _num_tries(int8_s)) > 1:
            int8_s = yield from self._try("int8", num_tries)
        return int8_s, max(0.0, int8_s - waited_s)

    def _train_apart(self, every: int) -> Generator[str, float, None]:
        """Two rounds after the first update, which is not yet apart; the second counts."""
        alone: list[float] = []
        mean_s, num_means = 0.0, 0
        for number in range(1 + 2 * every):
            taken_s = yield LOCAL
            if number > every:
                alone.append(taken_s - self._agreed_s)
                mean_s += self._agreed_s
                num_means += self._num_agreed
        sees = self._apart is not None and self._apart.sees_losses  # else nobody knows whether it is worth it
        measured = [statistics.median(alone), mean_s / num_means if sees and num_means else math.inf]
        self._alone_s, self._mean_s, self._looked = _agreed([*measured, num_means / every])

    def _at_least(self) -> dict[str, float]:
        """Seconds of an update by way, as little as they may be, by what means of parameters took."""
        shapes = self._shapes()
        total = sum(shape.numel() for shape in shapes)
        message_s, *product_s = _agreed([_probe_message(), *_probe_products(shapes)])
        found = dict.fromkeys(self._ways, self._alone_s + _AT_LEAST * self._mean_s)
        for rank, one_s in zip(RANKS, product_s, strict=True):
            thin = sum(low_rank.sizes(shape, rank)[1] for shape in shapes)
            less = min(1.0, 4 * thin / total)  # float32 beside codes of 8 bits
            found[f"powersgd-{rank}"] = (
                self._alone_s + less * self._mean_s + _PRODUCTS * total * one_s + _MESSAGES * message_s
            )
        return found

    def _try(self, way: str, num: int) -> Generator[str, float, float]:
        """Seconds of an update, of so many."""
        yield way  # the first time it makes what it keeps
        times = []
        for _ in range(num):
            times.append((yield way))
        (taken_s,) = _agreed([statistics.median(times)])
        return taken_s

    def _find_exact(self) -> _Search:
        """The same where all ways are to be tried."""
        for way in (*self._ways, *self._ways):  # noqa: UP028 - a tuple is sent nothing
            yield way  # the first time it makes what it keeps
        seconds = yield from self._take_turns(self._ways)
        self._tell(seconds, {}, _first_of_the_fastest(seconds))

    def _take_turns(self, ways: Sequence[str]) -> Generator[str, float, dict[str, float]]:
        """Seconds of an update by way."""
        times: dict[str, list[float]] = {way: [] for way in ways}
        done, rounds = 0, _ROUNDS
        while done < rounds:
            for way in ways:
                times[way].append((yield way))
            done += 1
            if done == _ROUNDS:
                (round_s,) = _agreed([sum(map(sum, times.values())) / done])
                rounds = max(_ROUNDS, min(_MOST_ROUNDS, int(_LONG_ENOUGH_S / round_s)))
        medians = _agreed([statistics.median(times[way]) for way in ways])
        return dict(zip(ways, medians, strict=True))

    def _expect(self, alone_s: float) -> dict[str, float]:
        """Seconds of an update by way, as little as they may be, by what one value takes on the link."""
        shapes = self._shapes()
        total = sum(shape.numel() for shape in shapes)
        value_s, *product_s = _agreed([_probe_link(self._exchange, "plain"), *_probe_products(shapes)])
        found = {"plain": alone_s + total * value_s}
        if self._exchange.layered:
            (layered_s,) = _agreed([_probe_link(self._exchange, NAME)])
            found |= {NAME: alone_s + total * layered_s, f"{NAME}-bf16": alone_s + total * layered_s / 2}
            found[f"{NAME}-int8"] = alone_s + total * layered_s / 4
        found |= {"bf16": alone_s + total * value_s / 2, "int8": alone_s + total * value_s / 4}
        for rank, one_s in zip(RANKS, product_s, strict=True):
            thin = sum(low_rank.sizes(shape, rank)[1] for shape in shapes)
            found[f"powersgd-{rank}"] = alone_s + thin * value_s + _PRODUCTS * total * one_s
        return found


def _num_tries(update_s: float) -> int:
    return max(1, min(_MOST_TRIES, int(_TRIES_S / update_s)))


def _first_of_the_fastest(seconds: dict[str, float]) -> str:
    best_s = min(seconds.values())
    return next(way for way, taken_s in seconds.items() if _WORTH * taken_s <= best_s)


def _agreed(values: Sequence[float]) -> list[float]:
    """Their means over all ranks."""
    made = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(made)
    made /= dist.get_world_size()
    return [float(one) for one in made]


def _probe_link(exchange: Exchange, way: str) -> float:
    """Seconds that one value of float32 takes on its way to an exact mean, with all threads at work."""
    for number in _PROBES:
        began_s = time.perf_counter()
        flats = [torch.zeros(number // NUM_THREADS) for _ in range(NUM_THREADS)]
        for future in [exchange.put(way, (-1, index), flat) for index, flat in enumerate(flats)]:
            future.wait()
        (taken_s,) = _agreed([time.perf_counter() - began_s])
        if taken_s > _LONG_S:
            break
    return taken_s / number


def _probe_message() -> float:
    """Seconds that all ranks need to have heard of each other, at least."""
    _agreed([0.0])
    began_s = time.perf_counter()
    _agreed([0.0])
    return time.perf_counter() - began_s


def _probe_products(shapes: Sequence[torch.Size]) -> list[float]:
    """Seconds of a value of a gradient in its product with factors, by rank; 0 where there is no matrix."""
    matrices = [shape for shape in shapes if low_rank.sizes(shape)[1] < shape.numel()]
    if not matrices:
        return [0.0] * len(RANKS)
    shape = max(matrices, key=lambda one: one.numel())
    one: Tensor = torch.ones(shape[0], shape.numel() // shape[0])
    found = []
    for rank in RANKS:
        factor = torch.ones(one.shape[1], rank)
        one @ factor
        began_s = time.perf_counter()
        one @ factor
        found.append((time.perf_counter() - began_s) / one.numel())
    return found
