"""Objects of a notebook on their way to other processes and back.

Functions and classes of the notebook travel by value (cloudpickle) and find their globals in the ``__main__`` of the
other side. The values of tensors travel beside the pickle, each storage once, so that views and tied weights stay
what they are. Objects that can change are labelled: what comes back is written into the notebook's own objects,
whoever else refers to them.
"""

from __future__ import annotations

import contextlib
import copyreg
import dataclasses
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import cloudpickle
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from deepseek_lab.base.errors import TargetError

_LABEL, _STORAGE = "label", "storage"


class _Namespace:
    """Stands for the names of the other side's ``__main__``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Stranger, ()


class _Stranger:
    """Never made: the unpickler gives its own namespace in its place."""


def _labelled(label: int, make: Callable[..., Any], *arguments: Any) -> Any:
    raise RuntimeError("an unpickler of ours puts its own function here")


@dataclasses.dataclass
class Unpacked:
    """What came, and who is who."""

    value: Any
    labelled: dict[int, Any]
    """Objects by the label that they left with."""


def _keeps_state(value: Any) -> bool:
    """Whether an object is one that is labelled: it has attributes that may change, and is pickled in the usual way."""
    if isinstance(value, Tensor):
        return True
    if isinstance(value, type | torch.Generator) or not hasattr(value, "__dict__"):
        return False
    data = (torch.utils.data.Dataset, torch.utils.data.DataLoader, torch.utils.data.Sampler)
    return not isinstance(value, data) and type(value).__module__ not in {"builtins", "types"}


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Puts storages beside the pickle, and labels on what can change."""

    def __init__(
        self,
        file: Any,
        names: Mapping[str, Any],
        known: Mapping[int, int],
        label: Callable[[Any], int] | None,
    ) -> None:
        super().__init__(file)
        self.globals_ref[id(names)] = _Namespace()
        self._known, self._label = known, label
        self._keep: list[Any] = []
        self._values: set[int] = set()
        self.storages: list[torch.UntypedStorage] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, value: Any) -> Any:
        if id(value) in self._known:
            return _LABEL, self._known[id(value)]
        if isinstance(value, torch.storage.TypedStorage):
            untyped = value._untyped_storage
            number = self._numbers.setdefault(untyped._cdata, len(self.storages))
            if number == len(self.storages):
                self.storages.append(untyped)
            return _STORAGE, number, value.dtype, str(untyped.device)
        return None

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, dict | _Namespace):
            return NotImplemented
        reduced = super().reducer_override(value)
        if reduced is not NotImplemented or self._label is None or not _keeps_state(value):
            return reduced
        if id(value) in self._values:
            return NotImplemented
        plain = _plain_reduce(value)
        if plain is None:
            return NotImplemented
        make, arguments, *rest = plain
        self._keep.append(value)
        if isinstance(value, torch.nn.Parameter):
            # Its values are a tensor that is made for its pickle, and that nobody can change.
            self._keep.append(arguments[0])
            self._values.add(id(arguments[0]))
        return (_labelled, (self._label(value), make, *arguments), *rest)


def _plain_reduce(value: Any) -> tuple[Any, ...] | None:
    """How an object is pickled, where that is by making it and then giving it its state."""
    if type(value) in copyreg.dispatch_table:
        return None
    reduced = value.__reduce_ex__(2)
    if not isinstance(reduced, tuple):
        return None
    if not isinstance(value, Tensor) and reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
        return None
    return reduced


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, file: Any, storages: list[Any], names: dict[str, Any], own: Mapping[int, Any], device: str
    ) -> None:
        super().__init__(file)
        self._storages, self._names, self._own, self._device = storages, names, own, device
        self.labelled: dict[int, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__ and name == "_Stranger":
            return lambda: self._names
        if module == __name__ and name == "_labelled":
            return self._register
        return super().find_class(module, name)

    def _register(self, label: int, make: Callable[..., Any], *arguments: Any) -> Any:
        made = self.labelled[label] = make(*arguments)
        return made

    def persistent_load(self, what: Any) -> Any:
        if what[0] == _LABEL:
            return self._own[what[1]]
        _, number, dtype, device = what
        storage = self._storages[number]
        if device.startswith("cuda") and self._device.startswith("cuda"):
            storage = self._storages[number] = storage.to(device=self._device)
        return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def pack(
    value: Any,
    names: Mapping[str, Any],
    *,
    known: Mapping[int, int] | None = None,
    label: Callable[[Any], int] | None = None,
) -> list[Any]:
    """Byte strings that :func:`unpack` makes the same value of, in another process.

    Args:
        value: Anything that can be pickled, by value where the notebook defined it.
        names: The ``__main__`` whose functions are to find their globals in that of the other side.
        known: Labels by ``id`` of objects that the other side has: they are referred to.
        label: Gives a label to an object that can change, and keeps the object.

    Raises:
        Exception: whatever the object's own pickling raises.
    """
    file = io.BytesIO()
    pickler = _Pickler(file, names, known or {}, label)
    pickler.dump(value)
    return [file.getvalue(), *(_bytes(storage) for storage in pickler.storages)]


def unsendable(
    values: Mapping[str, Any], names: Mapping[str, Any], known: Mapping[int, int] | None = None
) -> dict[str, str]:
    """Why some of the values cannot be packed, by name."""
    left: dict[str, str] = {}
    for name, value in values.items():
        try:
            pack(value, names, known=known)
        except Exception as error:
            left[name] = f"{type(error).__name__}: {error}"
    return left


def tensors(value: Any, names: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that :func:`pack` would take along, in the order in which it meets them.

    Raises:
        Exception: whatever the object's own pickling raises.
    """
    finder = _Finder(names)
    finder.dump(value)
    return list(finder.found.values())


class _Nowhere(io.RawIOBase):
    def write(self, data: Any) -> int:
        return len(data)


class _Finder(_Pickler):
    """Keeps tensors, and nothing else."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        super().__init__(_Nowhere(), names, {}, None)
        self.found: dict[int, Tensor] = {}

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            self.found.setdefault(id(value), value)
            return _LABEL, 0
        return super().persistent_id(value)


def _bytes(storage: torch.UntypedStorage) -> Any:
    host = storage if storage.device.type == "cpu" else storage.cpu()
    if not host.nbytes():
        return b""
    values: Any = torch.tensor([], dtype=torch.uint8).set_(host).numpy()
    return memoryview(values)


def unpack(
    payload: Sequence[Any],
    names: dict[str, Any],
    *,
    own: Mapping[int, Any] | None = None,
    device: str = "cpu",
    copy: bool = True,
) -> Unpacked:
    """What :func:`pack` made, again; only for bytes of somebody who has proven the key of the connection.

    Args:
        payload: What :func:`pack` gave.
        names: The ``__main__`` in which functions are to find their globals.
        own: Objects by label, that the value may refer to.
        device: Where tensors go that were on a GPU.
        copy: Whether the values of tensors are copied; else they stand in the payload, which can be written to.
    """
    storages = [
        torch.frombuffer(bytearray(one) if copy else one, dtype=torch.uint8).untyped_storage()
        if len(one)
        else torch.UntypedStorage(0)
        for one in payload[1:]
    ]
    unpickler = _Unpickler(io.BytesIO(bytes(payload[0])), storages, names, own or {}, device)
    try:
        value = unpickler.load()
    finally:
        unpickler.memo.clear()  # it refers to the unpickler, which the collector of CPython 3.11.2 does not see
    return Unpacked(value, unpickler.labelled)


class Luggage:
    """Names of a notebook that were sent, and how what has become of them comes back."""

    def __init__(self, names: dict[str, Any], wanted: Sequence[str]) -> None:
        self._names = names
        self._sent = {name: names[name] for name in wanted}
        self._objects: list[Any] = []

    def pack(self) -> list[Any]:
        """For the other processes.

        Raises:
            TargetError: one of them cannot travel; its name is in the message.
        """
        try:
            return pack(self._sent, self._names, label=self._label)
        except Exception as error:
            for name, value in self._sent.items():
                try:
                    pack(value, self._names)
                except Exception as why:
                    raise TargetError(
                        f"{name}, which the cell uses, is a {type(value).__name__} that cannot be sent to another "
                        f"process ({type(why).__name__}: {why})",
                        hint=f"make {name} in the cell itself",
                    ) from None
            raise TargetError(f"what the cell uses cannot be sent to another process ({error})") from None

    @property
    def kinds(self) -> list[str]:
        """What the objects are that were labelled, in order."""
        return [
            f"{type(one).__qualname__}{tuple(one.shape) if isinstance(one, Tensor) else ''}"
            for one in self._objects
        ]

    def _label(self, value: Any) -> int:
        self._objects.append(value)
        return len(self._objects) - 1

    def unpack(self, payload: Sequence[Any]) -> list[str]:
        """Write what came back into the notebook: into its own objects, and names for what is new.

        Returns:
            The names that were bound or whose objects have changed.
        """
        came = unpack(payload, self._names, own=dict(enumerate(self._objects))).value
        _write(came, dict(enumerate(self._objects)))
        for name, value in came["names"].items():
            self._bind(name, value)
        written = {id(self._objects[label]) for label in [*came["tensors"], *came["states"]]}
        into = {name for name, value in self._sent.items() if id(value) in written and _trains(value)}
        plain = {name for name, value in came["names"].items() if not isinstance(value, ModuleType)}
        return sorted(into) + sorted(plain - into)

    def _bind(self, name: str, value: Any) -> None:
        old = self._sent.get(name)
        if type(old) is type(value) and old is self._names.get(name):
            if isinstance(old, list) and isinstance(value, list):
                old[:] = value
                return
            if isinstance(old, dict | set) and isinstance(value, dict | set):
                old.clear()
                old.update(value)
                return
        self._names[name] = value


def _write(came: dict[str, Any], objects: Mapping[int, Any]) -> None:
    """What :meth:`Returning.pack` says of labelled objects, into these."""
    with torch.no_grad():
        for label, values in came["tensors"].items():
            _write_tensor(objects[label], values)
    for label, state in came["states"].items():
        _write_state(objects[label], state)


def _trains(value: Any) -> bool:
    """Whether an object is worth a word when it has been written into."""
    return not isinstance(value, torch.nn.Module) or any(True for _ in value.parameters())


def _write_tensor(own: Tensor, values: Tensor) -> None:
    if own.shape == values.shape and own.dtype == values.dtype:
        own.copy_(values)
    else:
        own.data = values.to(own.device)


def _write_state(own: Any, state: Any) -> None:
    if hasattr(own, "__setstate__"):
        own.__setstate__(state)
    elif isinstance(state, dict):
        own.__dict__.update(state)


def _count_steps(optimizer: torch.optim.Optimizer) -> None:
    """What a scheduler does to its optimizer when it is made, and what no pickle carries: its steps are seen."""
    plain = type(optimizer).step

    def step(*arguments: Any, **options: Any) -> Any:
        optimizer._opt_called = True  # type: ignore[attr-defined]
        return plain(optimizer, *arguments, **options)

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = step  # type: ignore[method-assign]


class Returning:
    """The rank's side of :class:`Luggage`."""

    def __init__(self, payload: Sequence[Any], names: dict[str, Any], device: str) -> None:
        self._names = names
        unpacked = unpack(payload, names, device=device)
        self._labelled = unpacked.labelled
        self._versions = {
            label: one._version for label, one in self._labelled.items() if isinstance(one, Tensor)
        }
        names |= unpacked.value
        for one in self._labelled.values():
            if isinstance(one, LRScheduler):
                _count_steps(one.optimizer)
            if isinstance(one, torch.optim.LBFGS):  # what its own pickle leaves out
                vars(one).update(_params=one.param_groups[0]["params"], _numel_cache=None)

    def pack(self, wanted: Sequence[str]) -> tuple[list[Any], dict[str, str]]:
        """For the notebook: what the names stand for now, and the state of everything that came from there.

        Returns:
            The bytes, and why names could not be sent.
        """
        known = {id(one): label for label, one in self._labelled.items()}
        tensors = {
            label: one.detach()
            for label, one in self._labelled.items()
            if isinstance(one, Tensor) and self._changed(label, one)
        }
        states: dict[int, Any] = {}
        for label, one in self._labelled.items():
            if not isinstance(one, Tensor):
                reduced = one.__reduce_ex__(2)
                if len(reduced) > 2 and reduced[2] is not None:
                    states[label] = reduced[2]
        values = {name: self._names[name] for name in wanted if name in self._names}
        try:
            return pack({"tensors": tensors, "states": states, "names": values}, self._names, known=known), {}
        except Exception:
            left = unsendable(values, self._names, known)
        values = {name: value for name, value in values.items() if name not in left}
        return pack({"tensors": tensors, "states": states, "names": values}, self._names, known=known), left

    def tensors(self, wanted: Sequence[str]) -> dict[str, list[Tensor]]:
        """Those that :meth:`pack` would take along, by name; under no name those of what came from the notebook."""
        found = {"": tensors(list(self._labelled.values()), self._names)}
        for name in wanted:
            with contextlib.suppress(Exception):  # then it cannot be packed either
                found[name] = tensors(self._names.get(name), self._names)
        return found

    def go_on(self, payload: Sequence[Any], device: str) -> None:
        """Make everything what it was on a rank that called :meth:`pack`, with the same objects sent to it."""
        came = unpack(payload, self._names, own=self._labelled, device=device).value
        _write(came, self._labelled)
        self._names |= came["names"]

    def _changed(self, label: int, one: Tensor) -> bool:
        if isinstance(one, torch.nn.Parameter) or one._version != self._versions[label]:
            return True
        return label in self._buffers()

    def _buffers(self) -> set[int]:
        if not hasattr(self, "_buffer_labels"):
            buffers = {
                id(buffer)
                for one in self._labelled.values()
                if isinstance(one, torch.nn.Module)
                for buffer in one.buffers(recurse=False)
            }
            self._buffer_labels = {label for label, one in self._labelled.items() if id(one) in buffers}
        return self._buffer_labels
