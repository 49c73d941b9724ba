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
    _REQUIRED = object()

    def record(cls):
        """Class decorator: fields from the annotations; frozen, comparable, cheap to import."""
        names = tuple(cls.__annotations__)
        blank = {name: getattr(cls, name, _REQUIRED) for name in names}
        required = sum(value is _REQUIRED for value in blank.values())  # they come first

        def __init__(self, *args, **kwargs):
            fields = self.__dict__
            fields.update(blank)  # the order of the fields
            fields.update(zip(names, args))
            fields.update(kwargs)
            if len(fields) > len(names) or len(args) > len(names):
                raise TypeError(f"{cls.__name__}: unknown or too many arguments")
            for name in names[len(args) : required]:
                if fields[name] is _REQUIRED:
                    raise TypeError(f"{cls.__name__}: missing {name!r}")

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
