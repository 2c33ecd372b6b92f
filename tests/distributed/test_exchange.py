from __future__ import annotations

import ast
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from deepseek_lab.distributed.worker.exchange import Bfloat16, Int8, Shared, Turn
from tests.distributed.conftest import Run


def coded(way: Shared, key: tuple[int, ...], rows: Tensor) -> Tensor:
    out = torch.empty(len(rows), way.num_bytes(rows.shape[1]), dtype=torch.uint8)
    way.encode(key, list(rows), rows.shape[1], out)
    return out


def decoded(way: Shared, rows: Tensor, part: int) -> Tensor:
    out = torch.empty(len(rows), part)
    for row, values in zip(rows, out, strict=True):
        way.decode(row, part, values)
    return out


def test_what_a_step_leaves_out_is_sent_the_next_times() -> None:
    """One large value makes a group's codes too coarse for the others, which come through over many steps."""
    way, rows = Int8(), torch.rand(2, 512) * 0.1
    rows[:, 0] = 100.0
    once = decoded(way, coded(way, (0, 0, 0), rows), 512)
    assert not once[:, 1:256].any()
    total = once.clone()
    for _ in range(999):
        total += decoded(way, coded(way, (0, 0, 0), rows), 512)
    torch.testing.assert_close(total / 1000, rows, rtol=0, atol=1e-3)


def test_tensors_do_not_take_each_others_errors() -> None:
    way, rows = Int8(), torch.full((1, 256), 0.3)
    rows[0, 0] = 100.0
    first = coded(way, (0, 0, 0), rows)
    assert torch.equal(coded(way, (0, 1, 0), rows), first)
    assert not torch.equal(coded(way, (0, 0, 0), rows), first)


@pytest.mark.parametrize("way", [Bfloat16, Int8])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [1, 255, 256, 257, 700, 4096, 5000])
def test_the_mean_of_ranks_whose_last_parts_are_short_or_empty(
    way: Callable[[], Shared], size: int, length: int
) -> None:
    """What collectives do is done by hand, for all ranks in one process."""
    given = [torch.randn(length) for _ in range(size)]
    found = [one.clone() for one in given]
    ways = [way() for _ in range(size)]
    turns = [Turn(ways[rank], found[rank], size, rank) for rank in range(size)]
    sent, came = [], []
    for turn in turns:
        turn.encode((0, 0))
        sent.append(turn.sent.clone())
    for rank, turn in enumerate(turns):
        turn.came.copy_(torch.stack([one[rank] for one in sent]))
        turn.reduce((0, 0))
        came.append(turn.mine.clone())
    for turn in turns:
        turn.came.copy_(torch.stack(came))
        turn.decode()
    wanted = torch.stack(given).mean(0)
    assert all(torch.equal(one, found[0]) for one in found)
    torch.testing.assert_close(found[0], wanted, rtol=0, atol=0.05)


def test_memory_is_taken_again_by_the_next_bucket_of_a_thread() -> None:
    large, small = torch.randn(100_000), torch.randn(1_000)
    first = Turn(Int8(), large, 2, 0)
    again = Turn(Int8(), large, 2, 0)
    assert again.sent.data_ptr() == first.sent.data_ptr()
    assert Turn(Bfloat16(), small, 2, 0).came.data_ptr() == first.came.data_ptr()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(Turn, Int8(), large, 2, 0).result()
    assert other.sent.data_ptr() != first.sent.data_ptr()


def test_factors_of_low_rank_come_to_the_mean_over_many_steps(run: Run) -> None:
    """What the factors do not hold is sent the next times, so that their sum is right however thin they are."""
    source = """
import torch
from deepseek_lab.distributed.worker.low_rank import LowRank
way, group = LowRank(2), torch.distributed.group.WORLD
torch.manual_seed(rank)
mine = [torch.randn(24, 4, 5), torch.randn(7)]
mean = [one.clone() for one in mine]
for one in mean:
    torch.distributed.all_reduce(one)
    one /= world_size
sums = [torch.zeros_like(one) for one in mine]
once = None
for _ in range(150):
    flat = torch.cat([one.reshape(-1) for one in mine])
    parts = [flat[:480].view(24, 4, 5), flat[480:]]
    way.mean((0, 0), flat, parts, group)
    once = once or [one.clone() for one in parts]
    for total, one in zip(sums, parts):
        total += one
rank_once = int(torch.linalg.matrix_rank(once[0].view(24, -1)))
off = [float((total / 150 - one).abs().max()) for total, one in zip(sums, mean)]
off_once = [float((one - at).abs().max()) for one, at in zip(once, mean)]
(rank_once, off, off_once, [one.sum().item() for one in sums])
"""
    request = run(source)
    assert all(one.status == "ok" for one in request.answers.values()), request.answers[0].text
    told = [ast.literal_eval(one.value) for one in request.answers.values()]
    assert told.count(told[0]) == 3
    rank_once, off, off_once, _ = told[0]
    assert rank_once == 2
    assert off_once[0] > 0.1
    assert off_once[1] < 1e-6, "a vector goes as it is"
    assert off[0] < 0.1 * off_once[0]
    assert off[1] < 1e-5
