"""The grammar: one declarative table of verbs.

The parser, ``?`` help, completion, the README's reference and ``python -m deepseek_lab`` all read this
table. A new verb is one record in :data:`VERBS` and one file in ``notebook/verbs/``.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

Value = str | int | float | bool | tuple[str, ...]
"""What a flag's text becomes."""

FlagKind = Literal["switch", "name", "text", "choice", "int", "float", "seconds", "names", "path", "cells"]
OperandKind = Literal["object", "report", "directory", "setting", "text", "verb", "code"]
Form = Literal["cell", "line", "script"]


@dataclasses.dataclass(frozen=True)
class Flag:
    """One ``--name``; ``default`` is a sentence for people, absent flags are absent from a command."""

    name: str
    help: str
    kind: FlagKind = "text"
    metavar: str = ""
    short: str = ""
    default: str = ""
    choices: tuple[str, ...] = ()
    """Values of a ``choice``; file endings of a ``path``."""

    @property
    def spelling(self) -> str:
        """How usage lines write it: ``-t/--to NAME``."""
        head = f"-{self.short}/--{self.name}" if self.short else f"--{self.name}"
        if self.kind == "switch":
            return head
        return f"{head} {'|'.join(self.choices) if self.kind == 'choice' else self.metavar}"


@dataclasses.dataclass(frozen=True)
class Operand:
    """A word that is no flag."""

    name: str
    kind: OperandKind
    help: str
    required: bool = False
    many: bool = False

    @property
    def spelling(self) -> str:
        """How usage lines write it: ``[TARGET ...]``."""
        word = f"{self.name} ..." if self.many else self.name
        return word if self.required else f"[{word}]"


@dataclasses.dataclass(frozen=True)
class Verb:
    """One verb: what it promises and every form in which it can be typed."""

    name: str
    promise: str
    forms: tuple[Form, ...]
    operands: tuple[Operand, ...] = ()
    flags: tuple[Flag, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    """Pairs of what to type and what it does."""
    common: bool = True
    """Whether the flags that every verb has apply."""
    elsewhere: bool = False
    """Whether the cell form runs the cell in other processes instead of in the notebook."""

    @property
    def words(self) -> str:
        """How it is typed; an underscore in the name stands for a space."""
        return self.name.replace("_", " ")

    @property
    def takes_code(self) -> bool:
        """Whether the line form ends in a statement, which is taken as it was typed."""
        return any(operand.kind == "code" for operand in self.operands)

    def all_flags(self) -> tuple[Flag, ...]:
        """The verb's own flags, then the common ones that it has none of its own for."""
        own = {flag.name for flag in self.flags}
        letters = {flag.short for flag in self.flags}
        common = COMMON_FLAGS if self.common else COMMON_FLAGS[-1:]
        return self.flags + tuple(
            dataclasses.replace(flag, short="") if flag.short in letters else flag
            for flag in common
            if flag.name not in own
        )

    def flag(self, name: str) -> Flag | None:
        """The flag of that long name, if the verb has it."""
        return next((flag for flag in self.all_flags() if flag.name == name), None)


COMMON_FLAGS = (
    Flag("to", "bind the report to NAME; NAME.to_dict() is plain JSON data", "name", "NAME", "t"),
    Flag("quiet", "show nothing", "switch", short="q"),
    Flag("dry-run", "show what would be done, and do none of it (a cell is not run either)", "switch", short="n"),
    Flag("view", "how the report is shown", "choice", default="the setting view, at first auto",
         choices=("auto", "live", "static", "text")),
    Flag("save", "write the report to PATH", "path", "PATH", choices=(".html", ".json", ".md")),
    Flag("device", "device that inputs and models are on", "text", "DEVICE", default="where the objects are"),
    Flag("seed", "seed of every random choice that the verb makes", "int", "INT"),
    Flag("help", "show this help; a cell is not run", "switch", short="h"),
)  # fmt: skip

_REPORT = Operand("REPORT", "report", "a report bound by --to; without it, the last one")

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "optimize",
            "runs what the cell calls at the speed of the best candidate that is proven to agree with eager",
            ("cell", "line", "script"),
            (
                Operand(
                    "TARGET",
                    "object",
                    "modules or functions; a cell without any watches what it calls",
                    many=True,
                ),
            ),
            (
                Flag(
                    "precision",
                    "open lower-precision candidates",
                    "choice",
                    default="the model's own",
                    choices=("bf16", "fp16", "int8"),
                ),
                Flag(
                    "tolerance",
                    "largest relative difference from float64 to accept",
                    "float",
                    "FLOAT",
                    default="what the precision allows",
                ),
                Flag("backends", "candidates that may take part", "names", "A,B", default="all installed"),
                Flag(
                    "wait",
                    "wait up to SECONDS for the decision before the cell ends",
                    "seconds",
                    "SECONDS",
                    default="0, work goes on in the background",
                ),
                Flag(
                    "memory-limit",
                    "keep what the cell trains within SIZE, or within what the device has",
                    "text",
                    "SIZE|auto",
                    default="no limit",
                ),
                Flag(
                    "allow",
                    "with --memory-limit: 8bit-optimizer (AdamW's moments in a byte a value), "
                    "step-in-backward (an error in a backward pass leaves half a step)",
                    "names",
                    "WORD[,WORD]",
                    default="exact plans only",
                ),
                Flag(
                    "effective-batch",
                    "update the weights once per N samples, by accumulating gradients of smaller batches",
                    "int",
                    "N",
                    default="the loop's own batches",
                ),
                Flag("like", "the reference function whose meaning a stub target must keep", "text", "NAME"),
            ),
            (
                ("%%deepseek optimize", "make the modules that this cell calls fast"),
                ("%%deepseek optimize encoder --wait 60 --to r", "only encoder; the decision is in r"),
                ("%deepseek optimize model --precision bf16", "an object, without a cell"),
                (
                    "%%deepseek optimize --memory-limit 6GiB",
                    "train in no more than that; the speed is planned",
                ),
                (
                    "%%deepseek optimize --effective-batch 256",
                    "the loop below, as if its batches had 256 samples",
                ),
                ("python -m deepseek_lab optimize train.py", "a whole script"),
            ),
        ),
        Verb(
            "profile",
            "says where time and memory go, by line, module and operator, while the cell runs as it is",
            ("cell", "line", "script"),
            (Operand("STATEMENT", "code", "what to run and profile; without it, the last profile again"),),
            (
                Flag("against", "a profile bound by --to, to compare with line by line", "name", "NAME"),
                Flag(
                    "trace",
                    "write what was recorded for Perfetto, as JSON",
                    "path",
                    "PATH",
                    choices=(".json",),
                ),
            ),
            (
                ("%%deepseek profile", "this cell, by line, module and operator"),
                ("%ds_profile train_epoch(model)", "one statement"),
                ("%%ds_profile --to before --trace step.json", "kept by name, and written for Perfetto"),
                ("%%ds_profile --against before", "what has changed since"),
                ("python -m deepseek_lab profile train.py", "a whole script"),
            ),
        ),
        Verb(
            "memory",
            "shows what memory held while the cell ran, and for what: every allocation by module, line and purpose",
            ("cell", "line", "script"),
            (Operand("STATEMENT", "code", "what to run and record; without it, the last recording again"),),
            (),
            (
                ("%%deepseek memory", "this cell"),
                ("%ds_memory train_step(model)", "one statement"),
                ("%%ds_memory --save memory.html", "also as a page that holds every event"),
            ),
        ),
        Verb(
            "memory_plan",
            "says how a model trains on devices that are described and not there, what each would hold, and how large "
            "a model of its kind could be, plain FSDP2 beside the plan; nothing is allocated",
            ("line",),
            (Operand("MODEL", "object", "an nn.Module, real or on the meta device", required=True),),
            (
                Flag(
                    "devices",
                    "how many of what size (8x80GB, 4x24GiB, 2x80GB,4x40GB) or name (8xH100)",
                    "text",
                    "DEVICES",
                    default="needed",
                ),
                Flag(
                    "batch", "samples on each device at a time", "int", "INT", default="1, or the example's"
                ),
                Flag(
                    "sequence",
                    "tokens a sample",
                    "int",
                    "INT",
                    default="what the configuration allows, at most 2048",
                ),
                Flag(
                    "inputs",
                    "a tensor, tuple or dict of the notebook that the model can be called with",
                    "name",
                    "NAME",
                    default="found from the model's configuration",
                ),
                Flag(
                    "precision",
                    "allow parameters in bfloat16, without a float32 master copy",
                    "choice",
                    default="float32 master weights",
                    choices=("bf16",),
                ),
                Flag(
                    "host-memory",
                    "what the hosts of all devices have for parameters and optimizer states",
                    "text",
                    "SIZE",
                    default="none, nothing is offloaded",
                ),
                Flag(
                    "save",
                    "write the report, or the plan as a program, to PATH",
                    "path",
                    "PATH",
                    choices=(".py", ".html", ".json", ".md"),
                ),
            ),
            (
                (
                    "%deepseek memory plan model --devices 8x80GB",
                    "the cheapest plan that fits, and the largest model",
                ),
                (
                    "%ds_memory plan model --devices 8xH100 --batch 4 --to p",
                    "p.to_code() is the plan as a program",
                ),
                (
                    "%deepseek memory plan model --devices 4x24GiB --precision bf16",
                    "parameters in bfloat16 allowed",
                ),
            ),
        ),
        Verb(
            "inspect",
            "watches a training loop and says what is wrong with it, where, since which step, and what to try",
            ("cell", "line", "script"),
            (
                Operand(
                    "TARGET", "object", "modules to watch; without any, every model that is called", many=True
                ),
            ),
            (
                Flag(
                    "try",
                    "when the cell has ended, try the fixes on copies of the model and the optimiser",
                    "switch",
                ),
            ),
            (
                ("%%deepseek inspect", "this cell, a training loop"),
                ("%%ds_inspect model --try", "one model; each fix is tried on a copy, with its effect"),
                ("%deepseek inspect", "what the last cell showed, again"),
                ("python -m deepseek_lab inspect train.py", "a whole script"),
            ),
        ),
        Verb(
            "ranks",
            "starts processes that stay, one a rank, and runs cells on them",
            ("cell", "line"),
            (
                Operand(
                    "WHAT",
                    "text",
                    "above a cell: which ranks ([0,2-3]), else all; on a line: start, status, stop, "
                    "restart, resize, record or script",
                    many=True,
                ),
            ),
            (
                Flag("num", "how many ranks to start", "int", "N", "n", default="one a GPU, or one a core"),
                Flag(
                    "launcher",
                    "where ranks start: on this machine, over ssh, or as a job of a batch system",
                    "choice",
                    default="local, with --hosts ssh",
                    choices=("local", "ssh", "slurm", "pbs", "kubernetes"),
                ),
                Flag("hosts", "for ssh: user@name:port*count each", "names", "A,B"),
                Flag(
                    "ssh-options",
                    "for ssh: words for it, beside what ~/.ssh/config has",
                    "text",
                    "'WORDS'",
                    default="none",
                ),
                Flag(
                    "python",
                    "interpreter there, with this package",
                    "text",
                    "PATH",
                    default="this one's path; for kubernetes python",
                ),
                Flag(
                    "listen",
                    "address of this machine at which ranks elsewhere reach it",
                    "text",
                    "ADDRESS",
                    default="that from which they are reached",
                ),
                Flag(
                    "profile",
                    "for batch systems: a file with the site's lines (#SBATCH, #PBS, module load), for kubernetes TOML "
                    "with an image",
                    "text",
                    "FILE",
                    default="none",
                ),
                Flag(
                    "wait",
                    "for batch systems: give a job up that has not started after so long",
                    "seconds",
                    "SECONDS",
                    default="600",
                ),
                Flag(
                    "folder",
                    "for slurm and pbs: a folder of yours that the job's machines see too",
                    "text",
                    "FOLDER",
                    default="~/.cache/deepseek_lab",
                ),
                Flag("push", "names of the notebook that the cell needs", "names", "A,B", default="none"),
                Flag("gather", "names of the ranks to bind here, each to a list by rank", "names", "A,B"),
            ),
            (
                ("%deepseek ranks start -n 4", "four processes with a process group"),
                (
                    "%%deepseek ranks",
                    "this cell on all of them; rank, world_size and device are defined there",
                ),
                ("%%deepseek ranks [0,2-3] --gather loss", "on these; loss is then a list of theirs"),
                ("%deepseek ranks status", "what each is doing, and where, and how fast it trained last"),
                (
                    "%deepseek ranks record --save record.json",
                    "what they have sent each other last, and who has not come to what others wait in",
                ),
                (
                    "%deepseek ranks restart 2",
                    "a new process for rank 2; without a number, for those that are dead",
                ),
                (
                    "%deepseek ranks resize 6",
                    "six of them from now on; those that stay keep their names, the highest ones are ended",
                ),
                ("%deepseek ranks stop", "end them all"),
                ("%deepseek ranks start --hosts me@a*2,b:2222*2", "two on each of two machines, over ssh"),
                (
                    "%deepseek ranks start -n 16 --launcher slurm --profile site.sh",
                    "as a Slurm job, with the site's own lines",
                ),
                (
                    "%deepseek ranks script -n 16 --launcher slurm",
                    "what Slurm would be given; nothing is done",
                ),
            ),
            elsewhere=True,
        ),
        Verb(
            "distributed",
            "runs an ordinary training cell data-parallel on ranks; the notebook's own model is trained",
            ("cell",),
            (),
            (
                Flag(
                    "num",
                    "ranks to start where none run",
                    "int",
                    "N",
                    "n",
                    default="one a GPU, or one a core",
                ),
                Flag(
                    "effective-batch",
                    "samples of an update over all ranks, also when these become fewer or more",
                    "int",
                    "N",
                    default="the cell's own batch on each rank",
                ),
                Flag(
                    "checkpoint",
                    "how often to save what is reached, between turns of the cell's own loops, from where the training "
                    "goes on when a rank dies; 0 never",
                    "seconds",
                    "SECONDS",
                    default="30",
                ),
                Flag(
                    "checkpoint-to",
                    "a folder that keeps what was saved, from which this cell goes on when it is run again after it "
                    "did not come to its end, in another kernel and on more or fewer ranks too",
                    "text",
                    "FOLDER",
                ),
                Flag(
                    "on-loss",
                    "when a rank is lost: replace gives it a new process, and where there can be none goes on with "
                    "those that are left; shrink goes on with those at once; stop ends the training",
                    "choice",
                    default="replace",
                    choices=("replace", "shrink", "stop"),
                ),
                Flag(
                    "max-restarts",
                    "new processes for lost ranks of this training, at most; then it goes on with those that are left",
                    "int",
                    "N",
                    default="as many as lead further",
                ),
                Flag("min-ranks", "with fewer the training ends", "int", "N", default="1"),
                Flag(
                    "strategy",
                    "what each rank holds: all of the parameters, gradients and optimizer states (ddp), its part "
                    "(fsdp), its columns and heads of layers (tensor), or blocks that follow each other (pipeline)",
                    "choice",
                    default="ddp",
                    choices=("ddp", "fsdp", "tensor", "pipeline"),
                ),
                Flag(
                    "mesh",
                    "ranks in several dimensions, as in data=2,tensor=4: copies of the model, stages of a pipeline "
                    "(pipeline), and ranks that share layers",
                    "text",
                    "NAME=N,...",
                ),
                Flag(
                    "micro-batches",
                    "parts of a batch that go through the stages of a pipeline one after the other",
                    "int",
                    "N",
                    default="4 for each stage",
                ),
                Flag(
                    "allow-lossy",
                    "let gradients go between ranks in bfloat16, as int8 codes or as factors of low rank, or "
                    "parameters be averaged every few updates in their place, where training is faster with that",
                    "switch",
                ),
                Flag(
                    "exchange",
                    "how gradients go between ranks; hierarchical adds up on each host first; all but plain, "
                    "hierarchical and auto need --allow-lossy",
                    "choice",
                    default="auto: the fastest in the first updates, of exact ways, with --allow-lossy of all",
                    choices=(
                        "plain",
                        "hierarchical",
                        "bf16",
                        "hierarchical-bf16",
                        "int8",
                        "hierarchical-int8",
                        "powersgd",
                        "local",
                        "diloco",
                        "auto",
                    ),
                ),
                Flag("rank", "of the factors, with --exchange powersgd", "int", "R", default="32"),
                Flag(
                    "every",
                    "updates from one mean of the parameters to the next, with --exchange local or diloco",
                    "int",
                    "N",
                    default="8, down to 2 as the loss falls no more; with diloco 32",
                ),
            ),
            (
                ("%%deepseek distributed -n 4", "the loop below, on 4 ranks"),
                ("%%deepseek distributed --effective-batch 256", "64 samples an update on each of 4"),
                ("%%deepseek distributed --strategy fsdp", "each rank holds its part of the model"),
                (
                    "%%deepseek distributed --mesh data=2,pipeline=2 --micro-batches 8",
                    "two copies of the model, each in two stages",
                ),
                (
                    "%%deepseek distributed --effective-batch 256 --on-loss shrink",
                    "a rank that dies leaves its share to the others",
                ),
                (
                    "%%deepseek distributed --allow-lossy",
                    "over a slow link, with the fastest way of sending gradients",
                ),
            ),
            elsewhere=True,
        ),
        Verb(
            "distributed_plan",
            "predicts how a model would train data-parallel on devices that are described and not there: the time of a "
            "step, what waits, and what each way of exchanging gradients brings, from 2 to 1024 of them",
            ("line",),
            (Operand("MODEL", "object", "an nn.Module, real or on the meta device"),),
            (
                Flag("model", "the same as MODEL", "text", "MODEL"),
                Flag(
                    "devices",
                    "how many of what: a name (16xV100) or a size (8x80GB)",
                    "text",
                    "DEVICES",
                    default="needed",
                ),
                Flag(
                    "link",
                    "what each node sends in a second to others, one way",
                    "text",
                    "RATE",
                    default="100Gbit/s",
                ),
                Flag(
                    "mesh",
                    "also ranks that share layers, stages of a pipeline and copies, as in data=4,tensor=4",
                    "text",
                    "NAME=N,...",
                ),
                Flag("micro-batches", "parts of a batch that go through the stages", "int", "N"),
                Flag("node-size", "devices of a node", "int", "INT", default="8"),
                Flag(
                    "batch", "samples on each device at a time", "int", "INT", default="1, or the example's"
                ),
                Flag(
                    "sequence",
                    "tokens a sample",
                    "int",
                    "INT",
                    default="what the configuration allows, at most 2048",
                ),
                Flag(
                    "inputs",
                    "a tensor, tuple or dict of the notebook that the model can be called with",
                    "name",
                    "NAME",
                    default="found from the model's configuration",
                ),
                Flag(
                    "step-time",
                    "what a step takes on one device, where it was measured",
                    "seconds",
                    "SECONDS",
                    default="worked out from the operators and the device's peaks",
                ),
            ),
            (
                (
                    "%deepseek distributed plan --model model --devices 16xV100 --link 10Gbit/s --batch 32",
                    "two nodes of eight; exact ways first",
                ),
                (
                    "%deepseek distributed plan model --devices 64xA100 --mesh data=4,pipeline=2,tensor=8",
                    "with layers shared in each node, two stages and four copies",
                ),
                (
                    "%deepseek distributed plan model --devices 64xA100 --batch 8 --step-time 0.21 --to p",
                    "with the time of a step on one device; p.curve holds the efficiencies",
                ),
            ),
        ),
        Verb(
            "hpo",
            "turns the cell into a search over the ranges that stand in it (ds.log, ds.uniform, ds.integer, "
            "ds.choice), in parallel, many small trials first, and runs the best beside the defaults",
            ("cell", "line"),
            (
                Operand(
                    "WHAT",
                    "text",
                    "on a line: list, show, resume, apply, export, remove or dashboard, and the name of a study",
                    many=True,
                ),
            ),
            (
                Flag("metric", "names that the cell binds and is judged by", "names", "NAME[,NAME]"),
                Flag(
                    "direction",
                    "max or min, for each metric",
                    "names",
                    "WAY[,WAY]",
                    default="min for a loss, an error or a time, else max",
                ),
                Flag(
                    "trials",
                    "configurations to try, with those that the study has already",
                    "int",
                    "N",
                    default="40, or as many as --time allows",
                ),
                Flag("time", "stop in time to end after so long (90s, 15m, 2h)", "seconds", "TIME"),
                Flag("target", "stop when a whole trial reaches it", "float", "VALUE"),
                Flag(
                    "workers",
                    "processes that run trials; 0 runs them in the notebook's own",
                    "int",
                    "N",
                    default="one a core, at most 8",
                ),
                Flag(
                    "name",
                    "of the study; the same name goes on with it",
                    "text",
                    "NAME",
                    default="one of the time of day",
                ),
                Flag(
                    "storage",
                    "where the study is kept: a file, or the URL of a database (sqlite:///FILE)",
                    "text",
                    "PLACE",
                    default="a file of the user's store",
                ),
                Flag(
                    "final",
                    "a metric that the cell binds, on data the search is not to see, for the comparison in the end",
                    "name",
                    "NAME",
                    default="half of what ds.validation is given, else the metric itself",
                ),
                Flag(
                    "repeats",
                    "fresh seeds with which the best few and the defaults run again; 0 for no comparison",
                    "int",
                    "N",
                    default="3",
                ),
                Flag(
                    "sampler",
                    "what chooses values",
                    "choice",
                    default="tpe, gp where trials are dear and few",
                    choices=("auto", "tpe", "gp", "cmaes", "random"),
                ),
                Flag(
                    "schedule",
                    "small trials first of which the best go on (ladder), or whole trials only",
                    "choice",
                    default="ladder where the cell can be made small",
                    choices=("auto", "ladder", "whole"),
                ),
                Flag("trial-timeout", "end a trial that takes longer", "seconds", "TIME", default="never"),
                Flag(
                    "warm-start",
                    "another study, whose best configurations are tried first, by the names of their ranges",
                    "text",
                    "NAME",
                ),
                Flag(
                    "on-change",
                    "when the study was made with another cell: stop, restart it, or continue with its trials",
                    "choice",
                    default="stop",
                    choices=("stop", "restart", "continue"),
                ),
                Flag(
                    "save",
                    "write the report, or what export gives, to PATH",
                    "path",
                    "PATH",
                    choices=(".py", ".html", ".json", ".md"),
                ),
            ),
            (
                ("%%deepseek hpo --metric accuracy --trials 60", "search over the ranges of this cell"),
                (
                    "%%deepseek hpo --metric accuracy --time 15m --name digits",
                    "for so long, in a study that another kernel can go on with",
                ),
                (
                    "%%deepseek hpo --metric accuracy --name larger --warm-start digits",
                    "the cell has changed: begin with what was best before",
                ),
                (
                    "%%deepseek hpo --metric accuracy,seconds --direction max,min",
                    "two metrics: what cannot be improved in both",
                ),
                ("%deepseek hpo list", "the studies that are there"),
                ("%deepseek hpo resume digits", "go on with a study"),
                ("%deepseek hpo apply digits", "bind its best values here"),
                (
                    "%deepseek hpo export digits --save train.py",
                    "the cell with the best values in their places",
                ),
                ("%deepseek hpo dashboard", "the studies in optuna-dashboard"),
            ),
            elsewhere=True,
        ),
        Verb(
            "limits",
            "finds the largest batch size that is safe, the fastest one, and the range of learning rates, on copies in "
            "another process: nothing of the notebook changes",
            ("cell", "line"),
            (Operand("MODEL", "object", "on a line: an nn.Module; above a cell its own loop is measured"),),
            (
                Flag(
                    "optimizer",
                    "on a line: the optimizer",
                    "text",
                    "NAME",
                    default="the one that trains the model",
                ),
                Flag(
                    "loss",
                    "on a line: called with output and target",
                    "text",
                    "NAME",
                    default="the model's own",
                ),
                Flag("data", "on a line: the DataLoader", "text", "NAME", default="the only one"),
                Flag(
                    "memory",
                    "what the training may hold: its process, or what it reserves on a GPU",
                    "text",
                    "SIZE|auto",
                    default="auto: 90 % of what is free",
                ),
                Flag("time", "end after so long with what is known", "seconds", "SECONDS", default="60"),
            ),
            (
                ("%%deepseek limits", "of the training loop below, which is left after a few steps"),
                ("%%deepseek limits --memory 8GiB --to r", "r.largest.size, r.fastest.size, r.rates.value"),
                (
                    "%deepseek limits model --optimizer optimizer --loss loss_fn --data loader",
                    "of objects of the notebook, without a cell",
                ),
            ),
            elsewhere=True,
        ),
        Verb(
            "why",
            "explains for each graph what was chosen, what every candidate did, and where capture broke",
            ("line",),
            (_REPORT,),
            (),
            (("%deepseek why", "the last report"), ("%deepseek why r", "the report bound by --to r")),
        ),
        Verb(
            "verify",
            "checks what runs now once more against eager and float64, on fresh inputs",
            ("line",),
            (_REPORT,),
            (Flag("inputs", "number of fresh random inputs", "int", "INT", default="3"),),
            (("%deepseek verify --inputs 10", "ten fresh inputs of the captured shapes"),),
        ),
        Verb(
            "graph",
            "shows the captured graph to explore, as a picture and as text, with the cell line of each operation and, "
            "on request, what each costs",
            ("line",),
            (_REPORT,),
            (
                Flag(
                    "profile",
                    "run the graph once more, node by node, and measure each operation: time, FLOP, bytes, values",
                    "switch",
                ),
                Flag(
                    "gradients",
                    "with --profile, also differentiate the sum of the outputs once (which is no loss of yours)",
                    "switch",
                ),
                Flag(
                    "seconds",
                    "with --profile, about how long to measure",
                    "seconds",
                    "SECONDS",
                    default="5",
                ),
            ),
            (
                ("%deepseek graph --save graph.html", "the last graph, also as a file"),
                ("%deepseek graph --profile", "where the time goes, and what the values are"),
            ),
        ),
        Verb(
            "export",
            "writes the result as a plain Python package that needs neither IPython nor this package",
            ("line",),
            (Operand("OUT", "directory", "folder to write", required=True), _REPORT),
            (
                Flag(
                    "cells",
                    "cells to take, by number",
                    "cells",
                    "1-3,7",
                    default="those that the result needs",
                ),
                Flag("as", "what to write", "choice", default="module", choices=("module", "script")),
            ),
            (
                ("%deepseek export out/", "the last result"),
                ("%deepseek export out/ --cells 2,4-6 --as script", "these cells, as one script"),
            ),
        ),
        Verb(
            "free",
            "finds what holds tensors, lets go of what no name of yours holds, and says what holds the rest",
            ("line",),
            (Operand("NAME", "text", "names of yours to delete", many=True),),
            (
                Flag("outputs", "also empty Out and its short names", "switch"),
                Flag("caches", "also empty the caches of torch.compile", "switch"),
            ),
            (
                ("%ds_free", "after an error: what the failed cell had allocated is free again"),
                ("%deepseek free losses --outputs", "delete a name, and empty Out"),
            ),
        ),
        Verb(
            "config",
            "shows the settings, or sets one from the next cell on",
            ("line", "script"),
            (Operand("SETTING", "setting", "name of a setting"), Operand("VALUE", "text", "its new value")),
            (),
            (("%deepseek config", "every setting"), ("%deepseek config race_budget_s 5", "set one")),
        ),
        Verb(
            "status",
            "shows what is installed, what is under way, and whether every cell is a region",
            ("line",),
            (),
            (),
            (("%deepseek status", "now"),),
        ),
        Verb(
            "doctor",
            "checks this machine and installation, and names the next thing to type for each fault",
            ("line", "script"),
            (),
            (),
            (("%deepseek doctor", "in the notebook"), ("python -m deepseek_lab doctor", "in a terminal")),
        ),
        Verb(
            "on",
            "makes every following cell a region of the verb, without a line in the cells",
            ("line",),
            (Operand("VERB", "verb", "the verb and its flags; optimize if left out"),),
            (),
            (("%deepseek on optimize --backends onnxruntime", "until %deepseek off"),),
            common=False,
        ),
        Verb(
            "off",
            "ends %deepseek on",
            ("line",),
            examples=(("%deepseek off", "cells are plain again"),),
            common=False,
        ),
    )
}
"""Every verb, by name, in the order in which help shows them."""
