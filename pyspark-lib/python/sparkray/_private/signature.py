"""Checks a call's arguments where it is made, not in the worker that would run it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_Parameters = tuple[tuple[str, int, bool], ...]


class CallShape:
    """Names and kinds of a function's parameters, without their defaults and types: small, and always picklable."""

    __slots__ = ("_least", "_most", "_parameters", "_signature")

    def __init__(self, parameters: _Parameters | None) -> None:
        """`parameters`: (name, kind, has default) of each; None accepts every call."""
        self._parameters = parameters
        self._signature: inspect.Signature | None = None
        # Calls with only positional arguments, between these counts, need no further look.
        self._least, self._most = 0, 1 << 30
        if parameters is None:
            return
        self._least = sum(1 for _, kind, default in parameters if kind in _POSITIONAL and not default)
        self._most = sum(1 for _, kind, _ in parameters if kind in _POSITIONAL)
        kinds = {kind for _, kind, _ in parameters}
        if inspect.Parameter.VAR_POSITIONAL in kinds:
            self._most = 1 << 30
        if any(kind == inspect.Parameter.KEYWORD_ONLY and not default for _, kind, default in parameters):
            self._most = -1

    @classmethod
    def of(cls, function: Callable[..., Any], *, skip_first: bool = False) -> CallShape:
        """The shape of `function`; `skip_first` leaves out `self`."""
        try:
            found = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # some builtins have none
            return cls(None)
        if skip_first and found and found[0].kind in _POSITIONAL:
            found = found[1:]
        return cls(tuple((p.name, int(p.kind), p.default is not inspect.Parameter.empty) for p in found))

    def __reduce__(self) -> tuple[type[CallShape], tuple[_Parameters | None]]:
        return CallShape, (self._parameters,)

    def check(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises TypeError when `name(*args, **kwargs)` would."""
        if not kwargs and self._least <= len(args) <= self._most:
            return
        if self._parameters is None:
            return
        try:
            self._bind().bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None

    def _bind(self) -> inspect.Signature:
        if self._signature is None:
            self._signature = inspect.Signature(
                [
                    inspect.Parameter(name, kind, default=None if default else inspect.Parameter.empty)
                    for name, kind, default in ((n, inspect._ParameterKind(k), d) for n, k, d in self._parameters or ())
                ]
            )
        return self._signature

    def name_of(self, index: int, positional: int, keywords: tuple[str, ...]) -> str:
        """The name of the `index`-th of the flat list of positional and keyword arguments."""
        if index >= positional:
            return repr(keywords[index - positional])
        names = [name for name, kind, _ in self._parameters or () if kind in _POSITIONAL]
        return repr(names[index]) if index < len(names) else f"number {index + 1}"
