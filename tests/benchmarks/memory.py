"""Training in less memory: ``python -m tests.benchmarks.memory [bert | models | prediction | allowed] [--rounds N]``.

``gpt``, ``vit``, ``llama`` and ``resnet`` are one of the ``models`` alone.

``bert``: BERT-base, masked-language training, batch 8 of 512 tokens, AdamW, against the same loop in eager mode. Bars:
a peak at least 50 % lower in steps at most 5 % slower, and at least 72 % lower in steps at most 30 % slower, the same
losses. ``models``: four other models, 40 % and 60 %. ``prediction``: 8 models with 3 limits each; bars: predicted
peaks within 8 % of the measured ones, none over the limit. ``allowed``: two models with the optimiser's step inside
the backward pass and with 8-bit moments, each against exact plans at the same limit and against eager; bars: losses
with the step in backward equal to the last digit, those with 8-bit moments within 2 % over the steps taken.

A limit is given, nothing else; what to recompute is the planner's work. Steps of the two arms are taken in turn in one
process, on the same batches from the same random numbers; each arm trains its own copy, so that losses compare.
Peaks are those of tensors, as a dispatch mode sees them in a step; beside them stands what the process grew to.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import itertools
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

import deepseek_lab
from deepseek_lab.base import events as ev
from deepseek_lab.engine import allocator
from deepseek_lab.measure.race import Ratio
from deepseek_lab.measure.resident import PeakResident
from deepseek_lab.memory.meter import Meter, unique_bytes
from deepseek_lab.memory.run import MemoryRun
from tests.benchmarks.training import batches

MIB = 1 << 20
PREDICTED_WITHIN = 0.08


@dataclasses.dataclass
class Case:
    """A model, and its loss of a batch."""

    name: str
    make: Callable[[], nn.Module]
    loss: Callable[[nn.Module, int], Tensor]
    """Of the batch of that number."""


def tokens(vocabulary: int, size: int, length: int, number: int) -> Tensor:
    """Words of Python's own documentation strings, each as the number that its checksum gives."""
    generator = torch.Generator().manual_seed(number)
    words = _words()
    starts = torch.randint(0, len(words) - length, (size,), generator=generator)
    return (
        torch.stack([words[start : start + length] for start in starts.tolist()]) % (vocabulary - 1000) + 999
    )


_read: list[Tensor] = []


def _words() -> Tensor:
    if not _read:
        folder = Path(dataclasses.__file__).parent
        text = " ".join(
            (folder / name).read_text(encoding="utf-8") for name in ("argparse.py", "typing.py", "ast.py")
        )
        _read.append(torch.tensor([zlib.crc32(word.encode()) for word in text.split()]))
    return _read[0]


def masked(size: int, length: int, vocabulary: int = 30522) -> Callable[[nn.Module, int], Tensor]:
    """The loss of masked-language training: 15 % of the tokens have a label."""

    def loss(model: nn.Module, number: int) -> Tensor:
        ids = tokens(vocabulary, size, length, number)
        chosen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(number)) < 0.15
        return model(input_ids=ids.masked_fill(chosen, 103), labels=ids.masked_fill(~chosen, -100)).loss

    return loss


def causal(vocabulary: int, size: int, length: int) -> Callable[[nn.Module, int], Tensor]:
    """The loss of a language model: every token has a label."""

    def loss(model: nn.Module, number: int) -> Tensor:
        ids = tokens(vocabulary, size, length, number)
        return model(input_ids=ids, labels=ids).loss

    return loss


def pictures(size: int, pixels: int) -> Callable[[nn.Module, int], Tensor]:
    """The loss of a classifier of scanned digits, as the loop computes it from logits."""

    def loss(model: nn.Module, number: int) -> Tensor:
        images, labels = next(batches(size, number))
        images = nn.functional.interpolate(images, size=(pixels, pixels), mode="bilinear")
        return nn.functional.cross_entropy(model(pixel_values=images).logits, labels)

    return loss


def bert() -> nn.Module:
    """BERT-base with a masked-language head."""
    return transformers.BertForMaskedLM(transformers.BertConfig())


def gpt2() -> nn.Module:
    """GPT-2 of 124 M parameters."""
    return transformers.GPT2LMHeadModel(transformers.GPT2Config())


def vit() -> nn.Module:
    """ViT-base."""
    return transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=10))


def llama() -> nn.Module:
    """A Llama of 86 M parameters, half of them in embedding and head."""
    sizes = {"hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 10}
    heads = {"num_attention_heads": 10, "num_key_value_heads": 5}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=32000, **sizes, **heads))


def resnet() -> nn.Module:
    """ResNet-50."""
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=10))


BERT = Case("BERT-base, 8 x 512 tokens", bert, masked(8, 512))
OTHERS = (
    Case("GPT-2, 8 x 512 tokens", gpt2, causal(50257, 8, 512)),
    Case("ViT-base, 32 x 224 px", vit, pictures(32, 224)),
    Case("Llama of 86 M, 8 x 256 tokens", llama, causal(32000, 8, 256)),
    Case("ResNet-50, 16 x 224 px", resnet, pictures(16, 224)),
)


class Arm:
    """One model that trains, a step at a time."""

    def __init__(self, case: Case, model: nn.Module) -> None:
        self.case, self.model = case, model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(self, number: int) -> tuple[float, float]:
        """The loss of a step, and its seconds."""
        torch.manual_seed(number)
        start = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.case.loss(self.model, number)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach()), time.perf_counter() - start

    def peaks(self, number: int) -> tuple[int, int]:
        """The most that tensors hold in a step, and what the process grows to; a step each."""
        gc.collect()
        allocator.trim()
        held = unique_bytes(self._lasting())
        resident = PeakResident.begin()
        self.step(number)
        grown = resident.bytes() if resident is not None else None
        with Meter() as meter:
            meter.hold(self._lasting())
            self.step(number + 1)
        peak = meter.peak_bytes
        meter.release()
        return peak, held + grown if grown is not None else 0

    def _lasting(self) -> Iterator[Tensor]:
        for one in self.model.parameters():
            yield one
            if one.grad is not None:
                yield one.grad
        yield from self.model.buffers()
        for state in self.optimizer.state.values():
            yield from (one for one in state.values() if isinstance(one, Tensor))


def planned(arm: Arm, limit: float, allow: tuple[str, ...] = ()) -> MemoryRun:
    """The run that keeps an arm within a limit, once a step was taken by its plan."""
    run = deepseek_lab.memory_limit(arm.model, f"{int(limit)}B", allow=allow)
    for number in itertools.count():
        arm.step(number)
        run.wait()
        row = next(iter(run.report.rows.values()))
        if row.planned is not None and row.measured is not None:
            return run
        if number > 12:
            raise SystemExit(f"no plan: {run.report.to_dict()}")
    raise AssertionError


def words_of(plan: ev.MemoryPlanned) -> str:
    """What a plan does, shortly."""
    return "; ".join(f"{one.action} ({len(one.where)})" if one.where else one.action for one in plan.steps)


def compare(case: Case, bars: list[tuple[float, float]], rounds: int) -> int:
    """Both arms of one model under each limit; the number of bars that were missed."""
    torch.manual_seed(0)
    eager = Arm(case, case.make().train())
    initial = copy.deepcopy(eager.model)
    for number in range(2):
        eager.step(number)
    peak, process = eager.peaks(2)
    print(
        f"{case.name}: eager holds {peak / MIB:,.0f} MiB at most, the process {process / MIB:,.0f} MiB",
        flush=True,
    )
    missed = 0
    del eager
    gc.collect()
    for less, slower in bars:
        arm, reference = Arm(case, copy.deepcopy(initial)), Arm(case, copy.deepcopy(initial))
        try:
            run = planned(arm, peak * (1 - less))
        except deepseek_lab.DeepseekError as error:
            print(f"  limit {peak * (1 - less) / MIB:,.0f} MiB: MISSED, refused: {error}", flush=True)
            missed += 1
            continue
        steps = next(iter(run.report.rows.values())).planned
        assert steps is not None
        start = _count(arm)
        for number in range(start):  # the steps that planning took
            reference.step(number)
        losses: list[tuple[float, float]] = []
        times: list[tuple[float, float]] = []
        for number in range(start, start + rounds):
            order = ((arm, 1), (reference, 0)) if number % 2 else ((reference, 0), (arm, 1))
            found = dict.fromkeys((0, 1), (0.0, 0.0))
            for one, index in order:
                found[index] = one.step(number)
            losses.append((found[0][0], found[1][0]))
            times.append((found[0][1], found[1][1]))
        del reference
        own, own_process = arm.peaks(start + rounds)
        ratio = Ratio.of([own for _, own in times], [base for base, _ in times])
        apart = max(abs(a - b) / abs(a) for a, b in losses)
        saved = 1 - own / peak
        held = saved >= less and ratio.speedup <= 1 + slower
        missed += not held
        low, high = ratio.ci95
        print(
            f"  limit {peak * (1 - less) / MIB:,.0f} MiB: {own / MIB:,.0f} MiB measured ({saved:.1%} less; predicted "
            f"{steps.predicted_bytes / MIB:,.0f}), process {own_process / MIB:,.0f} MiB; a step takes "
            f"{ratio.speedup:.3f} of eager's time (95% {low:.3f}-{high:.3f}); losses at most {apart:.1e} apart over "
            f"{len(losses)} steps; bar "
            f">= {less:.0%} less, <= {1 + slower:.2f}: {'HELD' if held else 'MISSED'}\n    {words_of(steps)}",
            flush=True,
        )
        run.restore()
        del arm, run
        gc.collect()
    return missed


def _count(arm: Arm) -> int:
    state = next(iter(arm.optimizer.state.values()), None)
    return int(state["step"]) if state else 0


def small_cases() -> tuple[Case, ...]:
    """Eight models that eager trains in a second or two, in batches that hold more than their weights do."""
    text = {"vocab_size": 8000, "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8}
    gpt = {"vocab_size": 8000, "n_embd": 256, "n_layer": 6, "n_head": 8}
    t5 = {"vocab_size": 8000, "d_model": 256, "d_ff": 1024, "num_layers": 4, "num_heads": 8, "d_kv": 32}
    one = transformers
    return (
        Case(
            "BERT",
            lambda: one.BertForMaskedLM(one.BertConfig(**text, intermediate_size=1024)),
            masked(16, 128, 8000),
        ),
        Case("GPT-2", lambda: one.GPT2LMHeadModel(one.GPT2Config(**gpt)), causal(8000, 16, 128)),
        Case(
            "Llama",
            lambda: one.LlamaForCausalLM(
                one.LlamaConfig(**text, num_key_value_heads=4, intermediate_size=768)
            ),
            causal(8000, 16, 128),
        ),
        Case(
            "T5",
            lambda: one.T5ForConditionalGeneration(one.T5Config(**t5, decoder_start_token_id=0)),
            causal(8000, 16, 64),
        ),
        Case(
            "ViT",
            lambda: one.ViTForImageClassification(
                one.ViTConfig(
                    hidden_size=192,
                    intermediate_size=768,
                    num_attention_heads=3,
                    image_size=160,
                    num_labels=10,
                )
            ),
            pictures(16, 160),
        ),
        Case("ResNet-50", resnet, pictures(16, 128)),
        Case(
            "MobileNetV2",
            lambda: one.MobileNetV2ForImageClassification(one.MobileNetV2Config(num_labels=10)),
            pictures(16, 160),
        ),
        Case(
            "ConvNeXt",
            lambda: one.ConvNextForImageClassification(
                one.ConvNextConfig(num_labels=10, hidden_sizes=[48, 96, 192, 384], depths=[2, 2, 6, 2])
            ),
            pictures(8, 160),
        ),
    )


def prediction() -> int:
    """Predicted beside measured peaks: 8 models, 3 limits each."""
    missed = 0
    for case in small_cases():
        torch.manual_seed(0)
        arm = Arm(case, case.make().train())
        for number in range(2):
            arm.step(number)
        peak, _ = arm.peaks(2)
        lasting = unique_bytes(arm._lasting())
        for share in (0.75, 0.5, 0.3):
            limit = lasting + share * (peak - lasting)
            try:
                run = planned(arm, limit)
            except deepseek_lab.DeepseekError as error:
                print(
                    f"  {case.name}, {limit / MIB:,.0f} MiB: refused: {str(error).splitlines()[0]}",
                    flush=True,
                )
                continue
            row = next(iter(run.report.rows.values()))
            assert row.planned is not None
            assert row.measured is not None
            error_share = row.planned.predicted_bytes / row.measured.peak_bytes - 1
            within = abs(error_share) <= PREDICTED_WITHIN
            kept = row.measured.peak_bytes <= limit or not row.planned.fits
            missed += not (within and kept)
            print(
                f"  {case.name}: eager {peak / MIB:,.0f} MiB, limit {limit / MIB:,.0f} MiB: predicted "
                f"{row.planned.predicted_bytes / MIB:,.0f}, measured {row.measured.peak_bytes / MIB:,.0f} MiB "
                f"({error_share:+.1%}), process {(row.measured.process_bytes or 0) / MIB:,.0f} MiB"
                f"{'' if row.planned.fits else ', said not to fit'}: {'HELD' if within and kept else 'MISSED'}",
                flush=True,
            )
            run.restore()
        del arm
        gc.collect()
    return missed


def allowed(rounds: int) -> int:
    """What ``--allow`` brings: peak, time and losses beside eager's, in steps taken in turn."""
    missed = 0
    cases = [case for case in small_cases() if case.name in ("BERT", "ResNet-50")]
    for case in cases:
        torch.manual_seed(0)
        initial = case.make().train()
        eager = Arm(case, copy.deepcopy(initial))
        for number in range(2):
            eager.step(number)
        peak, _ = eager.peaks(2)
        lasting = unique_bytes(eager._lasting())
        del eager
        exact = lasting + 0.4 * (peak - lasting)
        # A little more than parameters, gradients and exact moments take, where only 8 bits help.
        for allow, limit, within in (
            ((), exact, 1e-5),
            (("step-in-backward",), exact, 1e-5),
            (("8bit-optimizer",), 1.15 * lasting, 0.02),
            (("8bit-optimizer", "step-in-backward"), 1.15 * lasting, 0.02),
        ):
            words = ",".join(allow) or "nothing"
            arm, reference = Arm(case, copy.deepcopy(initial)), Arm(case, copy.deepcopy(initial))
            try:
                run = planned(arm, limit, allow)
            except deepseek_lab.DeepseekError as error:
                print(f"  {case.name}, --allow {words}: {error}", flush=True)
                continue
            row = next(iter(run.report.rows.values()))
            assert row.planned is not None
            start = _count(arm)
            for number in range(start):
                reference.step(number)
            pairs = []
            for number in range(start, start + rounds):
                first, second = (arm, reference) if number % 2 else (reference, arm)
                found = {id(one): one.step(number) for one in (first, second)}
                pairs.append((found[id(reference)], found[id(arm)]))
            ratio = Ratio.of([own for _, (_, own) in pairs], [base for (_, base), _ in pairs])
            apart = max(abs(own - base) / abs(base) for (base, _), (own, _) in pairs)
            # As the run measured it: who reads gradients to add them up ends the step in the backward pass.
            assert row.measured is not None
            measured = row.measured.peak_bytes
            held = apart <= within and (measured <= limit or not row.planned.fits)
            missed += not held
            low, high = ratio.ci95
            print(
                f"  {case.name}, --allow {words}, limit {limit / MIB:,.0f} MiB: eager {peak / MIB:,.0f} MiB, predicted "
                f"{row.planned.predicted_bytes / MIB:,.0f}, measured {measured / MIB:,.0f} MiB; a step takes "
                f"{ratio.speedup:.3f} of eager's time (95% {low:.3f}-{high:.3f}); losses at most {apart:.1e} apart "
                f"over {len(pairs)} steps: {'HELD' if held else 'MISSED'}\n    {words_of(row.planned)}",
                flush=True,
            )
            run.restore()
            del arm, reference, run
            gc.collect()
    return missed


def main(names: list[str]) -> int:
    """Run what is named, or everything; the number of bars that were missed."""
    rounds = 8
    if "--rounds" in names:
        at = names.index("--rounds")
        rounds = int(names[at + 1])
        names = names[:at] + names[at + 2 :]
    known: dict[str, Callable[[], int]] = {
        "bert": lambda: compare(BERT, [(0.5, 0.05), (0.72, 0.3)], rounds),
        "models": lambda: sum(compare(case, [(0.4, 0.05), (0.6, 0.3)], rounds) for case in OTHERS),
        **{
            case.name.partition(",")[0].replace("-", " ").split()[0].lower(): functools.partial(
                compare, case, [(0.4, 0.05), (0.6, 0.3)], rounds
            )
            for case in OTHERS
        },
        "prediction": prediction,
        "allowed": lambda: allowed(rounds),
    }
    missed = 0
    for name in names or ["bert", "models", "prediction", "allowed"]:
        if name not in known:
            raise SystemExit(f"{name} is none of {', '.join(known)}")
        print(f"memory {name}, {torch.get_num_threads()} threads", flush=True)
        missed += known[name]()
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
