"""Frozen records: what this package needs of dataclasses, without their import.

`dataclasses` pulls in `inspect` and `re`: 15 ms, twice the start of the interpreter, on every
`vzctl exec`. Type checkers see the real thing (see the TYPE_CHECKING lines of the users)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as _dataclass
    from dataclasses import replace as replace
    from typing import TypeVar, dataclass_transform

    T = TypeVar("T")

    @dataclass_transform(frozen_default=True)
    def record(cls: type[T]) -> type[T]:
        return _dataclass(frozen=True)(cls)

else:

    def record(cls):
        """Class decorator: keyword or positional fields from the annotations, frozen, comparable."""
        names = tuple(cls.__annotations__)
        defaults = {n: getattr(cls, n) for n in names if hasattr(cls, n)}
        known = frozenset(names)

        def __init__(self, *args, **kwargs):
            given = {**defaults, **dict(zip(names, args)), **kwargs}
            if len(args) > len(names) or not given.keys() <= known:
                raise TypeError(f"{cls.__name__}: unknown or too many arguments")
            try:
                self.__dict__.update((name, given[name]) for name in names)
            except KeyError as missing:
                raise TypeError(f"{cls.__name__}: missing {missing}") from None

        def frozen(self, name, *value):
            raise AttributeError(f"{cls.__name__}.{name} is read-only")

        def __eq__(self, other):
            return type(self) is type(other) and self.__dict__ == other.__dict__

        cls.__init__ = __init__
        cls.__setattr__ = cls.__delattr__ = frozen
        cls.__eq__ = __eq__
        cls.__hash__ = lambda self: hash(tuple(self.__dict__.values()))
        cls.__repr__ = lambda self: (
            f"{cls.__name__}({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"
        )
        cls.__record_fields__ = names
        return cls

    def replace(obj, **changes):
        """A copy of a record with some fields changed."""
        return type(obj)(**{**obj.__dict__, **changes})
