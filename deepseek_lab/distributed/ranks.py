"""Ranks as a notebook sees them: started, asked, watched, repaired, ended."""

from __future__ import annotations

import atexit
import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from deepseek_lab.base.errors import DeepseekError, TargetError
from deepseek_lab.base.operations import RankRecord, find
from deepseek_lab.base.ranks import RankAnswer, RankState, RankVitals, spans
from deepseek_lab.distributed import folder
from deepseek_lab.distributed.channel import Message, listen
from deepseek_lab.distributed.interrupts import HeldInterrupts
from deepseek_lab.distributed.launchers import Launcher, Local, Site, Start
from deepseek_lab.distributed.rank import Rank
from deepseek_lab.distributed.records import FEW, Records, clash
from deepseek_lab.distributed.rendezvous import Rendezvous
from deepseek_lab.distributed.request import Request, Saved

COLLECTIVE_LIMIT_S = 1800.0
GRACE_S = 1.0
"""Ranks whose peer has failed have so long to fail by themselves."""
STUCK_S = 6.0
"""A rank that is still in a collective so long after its connections were to be shut down is ended."""
PATIENCE_S = 5.0
"""A rank that waits in a collective for others who have ended their cell waits so long."""

_DETAILS = (
    "modules",
    "checksum",
    "num_steps",
    "num_shared",
    "global_batches",
    "left",
    "way",
    "every",
    "step_s",
    "expected",
    "lost",
    "not_kept",
    "plans",
)
_current: list[Ranks] = []


class RanksError(DeepseekError):
    """Ranks did not start, or are not what was asked for."""


class Watcher(Protocol):
    """What hears of ranks, in threads."""

    @property
    def known(self) -> Mapping[int, RankVitals]:
        """The last figures of each rank, where there were some."""

    def measured(self, rank: int, fields: dict[str, Any]) -> None:
        """A rank said how it is doing (:meth:`deepseek_lab.distributed.worker.vitals.Vitals.now`)."""

    def changed(self, state: RankState) -> None:
        """A rank is in another state."""

    def regrouped(self, kept: Sequence[int], text: str) -> None:
        """Ranks go on without others; those that had these numbers have the numbers from 0 on. ``text`` tells it."""


class Ranks:
    """A group of processes.

    Args:
        num_ranks: How many.
        launcher: What starts them; by default they are on this machine.
        changed: Called in a thread when the state of a rank has changed.
    """

    def __init__(
        self,
        num_ranks: int,
        *,
        launcher: Launcher | None = None,
        changed: Callable[[RankState], None] | None = None,
    ) -> None:
        if num_ranks < 1:
            raise RanksError(f"{num_ranks} ranks cannot be started", hint="%deepseek ranks start -n 2")
        self._changed_to = changed
        self.watcher: Watcher | None = None
        """Hears how the ranks of a training are doing."""
        self._ranks = [Rank(number) for number in range(num_ranks)]
        self._incarnations = dict.fromkeys(range(num_ranks), 0)
        """Of the last process that was started at a place."""
        self.history: list[tuple[float, str]] = []
        """What has become of ranks, and when (time.time)."""
        self._changed = threading.Condition()
        self._requests: dict[int, Request] = {}
        self._number = 0
        self._joined = False
        self._stopping = False
        self._launcher = launcher or Local()
        host = self._launcher.host
        self._folder = folder.make(self._launcher.parent)
        connection = self._folder / "connection.json"
        try:
            self._channel = listen(host, connection, self._heard)
        except BaseException:
            folder.remove(self._folder)
            raise
        self._rendezvous = Rendezvous(self._channel.send)
        self._records = Records(self._send)
        try:
            self._launcher.open(Site(self._folder, connection, num_ranks, self._channel.send))
        except BaseException:
            self._channel.close()
            folder.remove(self._folder)
            raise
        self._owner = os.getpid()
        atexit.register(self.stop)

    # What a notebook asks for.

    def __len__(self) -> int:
        return len(self._ranks)

    @property
    def states(self) -> list[RankState]:
        """The ranks as they are now."""
        return [self._state(one) for one in self._ranks]

    @property
    def live(self) -> list[int]:
        """Ranks that can be asked."""
        return [one.number for one in self._ranks if one.state in {"ready", "busy"}]

    @property
    def dead(self) -> list[int]:
        """Ranks whose processes have ended."""
        return [one.number for one in self._ranks if one.state == "dead"]

    @property
    def hosts(self) -> list[int]:
        """By rank; two that are on the same host have the same number."""
        machines = [one.machine for one in self._ranks]
        return [machines.index(one) for one in machines]

    @property
    def figures(self) -> dict[int, RankVitals]:
        """How ranks do in a training, or did in the last one that was watched; those of which that is known."""
        known = {} if self.watcher is None else self.watcher.known
        found = {one.number: known.get(one.number, one.figures) for one in self._ranks}
        return {number: one for number, one in found.items() if one is not None}

    def unwatch(self) -> None:
        """Nobody hears any more how ranks are doing; their last figures are kept."""
        figures, self.watcher = self.figures, None
        for one in self._ranks:
            one.figures = figures.get(one.number)

    def records(self, limit: int = FEW) -> dict[int, RankRecord]:
        """The last operations of the ranks that are there, whatever they do."""
        return self._records.begin(self.live, limit).wait()

    def start(self) -> None:
        """Start all processes and form the group; whatever was started ends if that fails or is interrupted.

        Raises:
            RanksError: a process ended, or the time was over.
        """
        with HeldInterrupts() as held:
            try:
                self._spawn(self._ranks)
                self._await_hello(self._ranks, held)
                self._join()
            except BaseException:
                self.stop()
                raise

    def restart(self, numbers: Sequence[int] = ()) -> list[int]:
        """Give dead ranks, or those named, a new process, and form the group anew; gives their numbers.

        The names of the notebook's cells are gone on a rank that has a new process.
        """
        if unknown := [number for number in numbers if number not in range(len(self._ranks))]:
            raise RanksError(f"there is no rank {unknown[0]}", hint="%deepseek ranks status")
        wanted = [
            one for one in self._ranks if one.number in numbers or (not numbers and one.state == "dead")
        ]
        with HeldInterrupts() as held:
            for one in wanted:
                if one.process is not None and one.process.alive:
                    one.state = "restarting"
                    one.process.kill()
                    one.process.wait(5)
                self._renew(one)
            try:
                self._spawn(wanted)
                self._await_hello(wanted, held)
            except BaseException:
                for one in wanted:
                    if one.state == "starting":
                        self._kill(one.number)
                raise
            if wanted:
                self._note(f"rank {spans(one.number for one in wanted)} got a new process")
            if len(self.live) == len(self._ranks):
                self._join()
        return [one.number for one in wanted]

    def resize(self, num_ranks: int) -> tuple[list[int], list[int]]:
        """Have so many ranks; those that stay keep their processes, and with them the names of their cells.

        What is too many is ended: dead ranks first, then those with the highest numbers. Dead ranks that stay get new
        processes. Those that are left have the numbers from 0 on, in the same order, and form a new group.

        Returns:
            The numbers of the ranks that were started, and those that the ended ones had.

        Raises:
            RanksError: there can be no such number, or what was started did not join; then it was ended again.
        """
        self._require_size(num_ranks)
        before = len(self)
        order = sorted(self._ranks, key=lambda one: (one.state == "dead", one.number))
        ended = self._leave(order[num_ranks:])
        added: list[Rank] = []
        with HeldInterrupts() as held:
            self._launcher.resize(num_ranks)
            for number in range(len(self), num_ranks):
                taken = {one.place for one in [*self._ranks, *added]}
                place = next(place for place in range(num_ranks) if place not in taken)
                added.append(Rank(number, place, self._incarnations.get(place, -1)))
            wanted = [*(one for one in self._ranks if one.state == "dead"), *added]
            for one in wanted:
                self._renew(one)
            self._ranks = [*self._ranks, *added]
            try:
                self._spawn(wanted)
                self._await_hello(wanted, held)
                if wanted or ended:
                    self._join()
            except BaseException:
                for one in wanted:
                    if one.state == "starting":
                        self._kill(one.number)
                self._leave(added)
                self._launcher.resize(len(self))
                raise
        if num_ranks != before:
            self._note(f"{before} ranks became {num_ranks}")
        return [one.number for one in wanted], ended

    def leave_out(self, numbers: Sequence[int], why: str) -> list[int]:
        """Go on without ranks that are dead; the others have the numbers from 0 on, in the same order.

        Args:
            numbers: Of the dead ones; not of all.
            why: What is to be remembered of it.

        Returns:
            The numbers that the others had.
        """
        kept = [one.number for one in self._ranks if one.number not in numbers]
        self._leave([one for one in self._ranks if one.number in numbers])
        self._note(why)
        if self.watcher is not None:
            self.watcher.regrouped(kept, why)
        return kept

    def stop(self, timeout_s: float = 3.0) -> None:
        """End all processes and remove everything that was made for them."""
        if self._stopping or os.getpid() != self._owner:
            return
        self._stopping = True
        atexit.unregister(self.stop)
        if self in _current:
            _current.remove(self)
        self._end(self._ranks, timeout_s)
        self._launcher.close()
        self._channel.close()
        folder.remove(self._folder)

    def ask(
        self,
        kind: str,
        fields: dict[str, Any] | None = None,
        payload: Sequence[Any] = (),
        *,
        ranks: Sequence[int] | None = None,
        said: Callable[[int, str, str], None] | None = None,
        keep: Callable[[Saved], None] = lambda saved: None,
    ) -> Request:
        """Have ranks do something and wait for their answers; a failure of a rank is its answer.

        ``said`` is called in this thread with rank, stream and text of what they print meanwhile; ``keep``, in another
        one, with what all of them have saved.

        The first interrupt is passed on to the ranks; the second one ends those that have not answered.

        Raises:
            RanksError: one of the ranks is not there.
            KeyboardInterrupt: it was interrupted, and every rank has answered or was ended.
        """
        numbers = list(range(len(self._ranks))) if ranks is None else list(ranks)
        self._require(numbers)
        if not self._joined and kind != "join":
            self._join()
        self._number += 1
        request = Request(self._number, numbers, keep)
        with self._changed:
            self._requests[request.number] = request
        with HeldInterrupts() as held:
            for number in numbers:
                one = self._ranks[number]
                one.doing, one.last_line = {}, ""
                self._set(one, "busy")
                body = {"request": request.number, **(fields or {})}
                if kind == "join":
                    body |= {"rank": number, "local_rank": self._local(one)}
                self._send(number, Message(kind, body, payload))
            passed_on = 0
            while request.waits:
                self._wait(request)
                request.tell(said)
                if held.count > passed_on:
                    passed_on += 1
                    if passed_on > 1 or kind != "join":  # a group is formed in no time, or not at all
                        if passed_on == 1:
                            request.asked = self._records.begin(self.live)
                        self._interrupt(request, kill=passed_on > 1)
            if request.finding is None and request.has_failed_together:
                request.finding = find(self.records())
            request.explain()
            request.tell(said)
            with self._changed:
                self._requests.pop(request.number, None)
            request.sort_out()
            if request.unblocked_at_s is not None or any(one.broken for one in request.answers.values()):
                self._joined = False
        if held.count:
            raise KeyboardInterrupt
        if request.unheard is not None:
            raise request.unheard
        return request

    # One request.

    def _wait(self, request: Request) -> None:
        with self._changed:
            self._changed.wait(0.1)
            waiting = [self._ranks[number] for number in request.waits]
        now = time.monotonic()
        if request.unblocked_at_s is not None:
            if now - request.unblocked_at_s > STUCK_S:
                for one in waiting:
                    if one.stuck:
                        one.freed = False
                        self._kill(one.number)
            return
        failed = request.failed_at_s is not None and now - request.failed_at_s > GRACE_S
        left = (
            request.ended_at_s is not None
            and now - request.ended_at_s > PATIENCE_S
            and all(one.doing.get("waits") for one in waiting)
        )
        if failed or left or self._differ(request, waiting):
            if request.finding is None:
                request.finding = find(self.records())
            request.say_who_does_not_come([one.number for one in waiting if not one.doing.get("waits")])
            request.unblocked_at_s = now
            for one in waiting:
                self._send(one.number, Message("unblock", {"request": request.number}))

    def _differ(self, request: Request, waiting: Sequence[Rank]) -> bool:
        """Whether ranks wait for each other in operations that are not the same ones; looked at every few seconds."""
        now = time.monotonic()
        if now - request.looked_at_s < PATIENCE_S or not all(one.stuck for one in waiting):
            return False
        request.looked_at_s = now
        finding = find(self.records())
        if finding.differ:
            request.finding = finding
        return finding.differ

    def _local(self, one: Rank) -> int:
        """Its number on its machine: the lowest one that is free when it is asked for first."""
        if one.local is None:
            taken = {other.local for other in self._ranks if other.host == one.host}
            one.local = next(number for number in itertools.count() if number not in taken)
        return one.local

    def _interrupt(self, request: Request, *, kill: bool) -> None:
        request.unblocked_at_s = request.unblocked_at_s or time.monotonic()
        for number in list(request.waits):
            if kill:
                self._kill(number)
            else:
                self._send(number, Message("interrupt", {"request": request.number}))

    def _kill(self, number: int) -> None:
        process = self._ranks[number].process
        if process is not None:
            process.kill()

    def _require(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number not in range(len(self._ranks)):
                raise RanksError(
                    f"there is no rank {number}, the ranks are {spans(range(len(self._ranks)))}",
                    hint="%deepseek ranks status",
                )
            one = self._ranks[number]
            if one.state == "dead":
                raise RanksError(f"rank {number} {one.why}", hint=f"%deepseek ranks restart {number}")
            if one.state == "stopped":
                raise RanksError("the ranks were stopped", hint=f"%deepseek ranks start -n {len(self)}")

    # Starting and ending.

    def _require_size(self, num_ranks: int) -> None:
        if num_ranks < 1:
            raise RanksError(
                f"there cannot be {num_ranks} ranks", hint="%deepseek ranks stop, to end them all"
            )
        most = self._launcher.most
        if most is not None and num_ranks > max(most, len(self)):
            raise RanksError(
                f"the hosts have places for {most} ranks, not for {num_ranks}",
                hint=f"%deepseek ranks resize {most}, or %deepseek ranks stop and start with more --hosts",
            )

    def _renew(self, one: Rank) -> None:
        """It is to have a process that is called what none was called before."""
        one.incarnation += 1
        self._incarnations[one.place] = one.incarnation
        one.local = None  # a batch system may start it on another machine

    def _leave(self, ranks: Sequence[Rank]) -> list[int]:
        """End ranks, number the others anew, and give the numbers that they had."""
        numbers = [one.number for one in ranks]
        self._end(ranks)
        if ranks:
            self._joined = False
            self._ranks = [one for one in self._ranks if one not in ranks]
            for number, one in enumerate(self._ranks):
                one.number = number
        return sorted(numbers)

    def _end(self, ranks: Sequence[Rank], timeout_s: float = 3.0) -> None:
        """End processes; they are given some time to do it themselves."""
        for one in ranks:
            kind = "stop" if one.state == "ready" else "exit"
            self._channel.send(Message(kind), one.identity.encode())
            if one.state == "starting" and one.process is not None:  # it may never hear
                one.process.kill()
            one.state = "stopped"
        until = time.monotonic() + timeout_s
        for one in ranks:
            if one.process is not None and not one.process.wait(max(0.0, until - time.monotonic())):
                one.process.kill()
                one.process.wait(5)

    def _note(self, text: str) -> None:
        self.history.append((time.time(), text))

    def _spawn(self, ranks: Sequence[Rank]) -> None:
        starts = []
        for one in ranks:
            one.state, one.why, one.doing, one.freed = "starting", "", {}, True
            starts.append(Start(one.place, one.identity, partial(self._ended, one, one.incarnation)))
        self._joined = False
        if not starts:  # for a batch system this would be a job too
            return
        try:
            processes = self._launcher.launch(starts)
        except BaseException:
            for one in ranks:
                one.state, one.why = "dead", "could not be started"
            raise
        for one, process in zip(ranks, processes, strict=True):
            one.process = process

    def _await_hello(self, ranks: Sequence[Rank], held: HeldInterrupts) -> None:
        limit_s = self._launcher.start_limit_s
        until = time.monotonic() + limit_s
        while any(one.state == "starting" for one in ranks):
            with self._changed:
                self._changed.wait(0.1)
            if held.count:
                raise KeyboardInterrupt
            if time.monotonic() > until:
                late = spans(one.number for one in ranks if one.state == "starting")
                raise RanksError(
                    f"rank {late} did not start within {limit_s:.0f} s{self._launcher.waits_for()}",
                    hint=self._launcher.hint,
                )
        for one in ranks:
            if one.state == "dead":
                words = one.process.last_words() if one.process is not None else ""
                raise RanksError(
                    f"rank {one.number} {one.why} while it started\n{words}".rstrip(),
                    hint=self._launcher.hint,
                )

    def _join(self) -> None:
        """Form the group, of all ranks."""
        self._require(range(len(self._ranks)))
        fields = {
            "size": len(self._ranks),
            "group": self._rendezvous.begin(),
            "limit_s": COLLECTIVE_LIMIT_S,
            "master": self._ranks[0].address,
            "hosts": self.hosts,
        }
        request = self.ask("join", fields)
        for number, answer in request.answers.items():
            if answer.status != "ok":
                raise RanksError(f"rank {number} did not join the others: {answer.error} {answer.text}")
            self._ranks[number].device = answer.device
        self._joined = True

    # What is heard, in threads.

    def _heard(self, sender: bytes, message: Message) -> None:
        one = next((one for one in self._ranks if one.identity.encode() == sender), None)
        if one is None:
            self._launcher.heard(sender, message)
            return
        match message.kind:
            case "hello":
                one.host, one.address = message.fields["host"], message.fields["address"]
                one.machine = message.fields["machine"]
                self._set(one, "ready")
            case "meet":
                self._rendezvous.heard(sender, message)
            case "beat":
                one.beat(message.fields)
            case "vitals":
                if self.watcher is not None:
                    self.watcher.measured(one.number, message.fields)
            case "said":
                for stream, text in message.fields["parts"]:
                    lines = text.strip().splitlines()
                    one.last_line = lines[-1] if lines else one.last_line
                    request = self._requests.get(message.fields["request"] or -1)
                    if request is not None:
                        request.said.append((one.number, stream, text))
            case "recorded":
                self._records.heard(one.number, message.fields)
            case "announce":
                for number in range(len(self)):
                    self._send(number, Message("save", message.fields))
            case "can save":
                request = self._requests.get(message.fields["request"])
                go = None if request is None else request.can_save(one.number, message.fields, len(self))
                if go is not None:
                    for number in range(len(self)):
                        self._send(number, Message("decided", {**message.fields, "go": go}))
            case "saved":
                request = self._requests.get(message.fields["request"])
                if request is not None:
                    request.save(one.number, message.fields, message.payload, len(self))
            case "done":
                self._answered(one, message)

    def _answered(self, one: Rank, message: Message) -> None:
        fields = message.fields
        answer = RankAnswer(
            rank=one.number,
            status=fields["status"],
            seconds=fields["seconds"],
            value=fields.get("value", ""),
            error=fields.get("error", ""),
            text=fields.get("text", ""),
            line=fields.get("line"),
            device=fields.get("device", ""),
            broken=fields["broken"],
            details={name: fields[name] for name in _DETAILS if name in fields},
        )
        self._take(one, fields["request"], answer, message.payload)
        self._set(one, "ready")

    def _take(self, one: Rank, number: int, answer: RankAnswer, payload: Sequence[Any] = ()) -> None:
        with self._changed:
            request = self._requests.get(number)
            if request is None or one.number not in request.waits:
                return
            if request.unblocked_at_s is not None and answer.peer_lost:
                answer = dataclasses.replace(answer, status="unblocked")
            request.answers[one.number] = answer
            request.payloads[one.number] = payload
            now = time.monotonic()
            if answer.status == "ok":
                request.ended_at_s = request.ended_at_s or now
            elif request.failed_at_s is None:
                request.failed_at_s = now
            request.waits.discard(one.number)
            self._changed.notify_all()

    def _ended(self, one: Rank, incarnation: int, why: str) -> None:
        if one.incarnation != incarnation or self._stopping or one.state in {"restarting", "stopped"}:
            return
        one.why = why if one.freed else "was ended, as nothing else ends the collective it was in"
        self._joined = False
        with self._changed:
            waiting = [request for request in self._requests.values() if one.number in request.waits]
        place = f", at line {one.doing['line']} in {one.doing['function']}" if "line" in one.doing else ""
        said = f"\nlast line: {one.last_line}" if one.last_line else ""
        words = one.process.last_words() if one.process is not None else ""
        text = f"rank {one.number} {one.why}{place}{said}\n{words}".rstrip()
        self._set(one, "dead")
        self._note(f"rank {one.number} {one.why}")
        for request in waiting:
            answer = RankAnswer(
                rank=one.number,
                status="dead",
                error=one.why,
                text=text,
                line=one.doing.get("line"),
                broken=True,
                record=clash(words),
            )
            self._take(one, request.number, answer)

    def _send(self, number: int, message: Message) -> None:
        self._channel.send(message, self._ranks[number].identity.encode())

    def _set(self, one: Rank, state: str) -> None:
        with self._changed:
            if one.state == "dead" and state in {"ready", "busy"} and one.process and not one.process.alive:
                return
            one.state = state
            self._changed.notify_all()
        if self._changed_to is not None:
            self._changed_to(self._state(one))
        if self.watcher is not None:
            self.watcher.changed(self._state(one))

    def _state(self, one: Rank) -> RankState:
        return RankState(
            rank=one.number,
            state=one.state,
            pid=one.process.pid if one.process is not None else 0,
            device=one.device,
            line=one.doing.get("line") if one.state == "busy" else None,
            function=one.doing.get("function", "") if one.state == "busy" else "",
            last_line=one.last_line,
            why=one.why,
            host=one.process.host if one.process is not None else "",
        )


def start(num_ranks: int, **options: Any) -> Ranks:
    """Start ranks; those that run already are not touched.

    Raises:
        RanksError: ranks run already, or these did not start.
    """
    if _current:
        raise RanksError(
            f"{len(_current[0])} ranks run already",
            hint="%deepseek ranks stop, then start those that you want",
        )
    made = Ranks(num_ranks, **options)
    _current.append(made)
    made.start()
    return made


def current() -> Ranks | None:
    """The ranks of this process, if there are any."""
    return _current[0] if _current else None


def needed() -> Ranks:
    """The ranks of this process.

    Raises:
        TargetError: there are none.
    """
    if not _current:
        raise TargetError("no ranks have been started", hint="%deepseek ranks start -n 2")
    return _current[0]
