"""Finds a model's state dict in what a training script saved.

Scripts nest it (``{"model": ...}``), keep several (a running mean of the weights beside them) and
put prefixes before its names (``module.``, Lightning's ``model.``, ``_orig_mod.``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from edgevit.errors import UsageError
from edgevit.zoo.weights import StateDict, read_checkpoint, unreadable

_DEPTH = 4
_AVERAGED = ("ema", "teacher", "averaged", "swa")  # evaluated rather than the last step's weights
_NEARLY = 0.9
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class CheckpointContents:
    """A state dict as it was found in a file.

    Args:
        where: The file.
        place: Where in it, containers and prefix joined by dots; empty for the whole file.
        state: Tensors by the model's own names.
        outside: Names of tensors in the same container that do not have the prefix.
        others: Places of further state dicts that would fit as well.
    """

    where: str
    place: str
    state: StateDict
    outside: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """Return what a user should know of the choice."""
        notes = []
        if self.place:
            notes.append(f"weights: those called {self.place!r} in {Path(self.where).name}")
        if self.others:
            names = ", ".join(repr(name or "(none)") for name in self.others[:_SHOWN])
            notes.append(f"weights: not taken were {names}; --weights-key takes another")
        return notes


def find_checkpoint(path: Path, names: Iterable[str], key: str = "") -> CheckpointContents:
    """Read a checkpoint file and find the state dict that fits these names best.

    Args:
        path: The file.
        names: Names of the model's parameters and buffers.
        key: The place asked for, or its beginning; empty for averaged weights (ema, teacher) if
            there are some, else the first.

    Raises:
        DataError: The file can't be read or has no tensors (EV154).
        UsageError: There is no such key (EV176).
    """
    return checkpoint_in(read_checkpoint(path), str(path), names, key)


def checkpoint_in(
    loaded: Any, where: str, names: Iterable[str], key: str = ""
) -> CheckpointContents:
    """Find the state dict that fits these names best; see `find_checkpoint`."""
    own = list(names)
    found = [
        (fitting, _place(container, prefix), prefix, state)
        for container, state in _state_dicts(loaded, ())
        for prefix, fitting in _prefixes(own, state)
    ]
    if not found:
        kind = f"keys {', '.join(sorted(map(str, loaded))[:_SHOWN])}" if _is_table(loaded) else ""
        holds = kind or f"a {type(loaded).__name__}"
        raise unreadable(where, f"No state dict is in it; it holds {holds or 'nothing'}.")
    best = max(fitting for fitting, *_ in found)
    fits = [item for item in found if item[0] >= _NEARLY * best]
    if key:
        fits = [item for item in found if f"{item[1]}.".startswith(f"{key.rstrip('.')}.")]
        fits = [item for item in fits if item[0] == max(f[0] for f in fits)] if fits else []
        if not fits:
            raise _no_key(where, key, [place for _, place, *_ in found])
    _, place, prefix, state = min(fits, key=lambda item: not _is_averaged(item[1]))
    return CheckpointContents(
        where=where,
        place=place,
        state={name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)},
        outside=tuple(sorted(name for name in state if not name.startswith(prefix))),
        others=() if key else tuple(other for _, other, *_ in fits if other != place),
    )


def _state_dicts(
    loaded: Any, place: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], StateDict]]:
    """Yield every table of tensors, the outermost first; one that holds itself has an end."""
    if not _is_table(loaded) or len(place) > _DEPTH:
        return
    tensors = {key: value for key, value in loaded.items() if _is_named_tensor(key, value)}
    if tensors:
        yield place, tensors
    for key, value in loaded.items():
        if isinstance(key, str):
            yield from _state_dicts(value, (*place, key))


def _prefixes(own: list[str], state: StateDict) -> list[tuple[str, int]]:
    """Return (prefix, number of own names found with it), those nearly as good as the best.

    Where no name is found, the names themselves are another library's, to be converted: then a
    prefix is what all of them share.
    """
    wanted, counts = set(own), Counter[str]()
    for name in state:
        for start in (0, *(i + 1 for i, sign in enumerate(name) if sign == ".")):
            if name[start:] in wanted:
                counts[name[:start]] += 1
    best = max(counts.values(), default=0)
    if not best:
        return [(_shared_wrapper(state), 0)]
    return [(prefix, count) for prefix, count in counts.items() if count >= _NEARLY * best]


def _shared_wrapper(state: StateDict) -> str:
    prefix, wrappers = "", ("module.", "_orig_mod.", "model.")
    while True:
        more = [w for w in wrappers if all(name.startswith(prefix + w) for name in state)]
        if not more:
            return prefix
        prefix += more[0]


def _place(container: tuple[str, ...], prefix: str) -> str:
    return ".".join((*container, *filter(None, prefix.split("."))))


def _is_averaged(place: str) -> bool:
    return any(word in part.split("_") for part in place.split(".") for word in _AVERAGED)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_named_tensor(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _no_key(where: str, key: str, places: list[str]) -> UsageError:
    known = ", ".join(repr(place) for place in dict.fromkeys(places) if place)
    return UsageError(
        "EV176",
        f"The checkpoint has no weights called {key!r}.",
        where=f"--weights-key, {where}",
        why=f"It has {known}." if known else "It holds one state dict, without a name.",
        try_next="Give one of these names, or leave out --weights-key.",
    )
