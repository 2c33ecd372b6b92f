"""Parameters of modules that are other tensors for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn

Place = tuple[nn.Module, str]


@contextlib.contextmanager
def shown(modules: Iterable[nn.Module], places: Sequence[Place], values: Sequence[Tensor]) -> Iterator[None]:
    """Have modules see these values where they have parameters; ``modules`` are all that compute with them."""
    rnns = [one for one in modules if isinstance(one, nn.RNNBase)]
    flats = [one._flat_weights for one in rnns]
    kept = [part._parameters[name] for part, name in places]
    for (part, name), value in zip(places, values, strict=True):
        part._parameters[name] = value  # type: ignore[assignment]
    for one in rnns:  # which keep a list of them
        one._flat_weights = [getattr(one, name, None) for name in one._flat_weights_names]
    try:
        yield
    finally:
        for (part, name), was in zip(places, kept, strict=True):
            part._parameters[name] = was
        for one, flat in zip(rnns, flats, strict=True):
            one._flat_weights = flat
