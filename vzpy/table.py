"""A table of records, each made when it is asked for: a hundred take 0.2 ms, and a command asks
for two or three. Type checkers see rows as the records that they become."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, TypeVar
    from typing import Generic as _Base

    T = TypeVar("T")
    # arguments of a record, by place and by name
    Row = tuple[tuple[Any, ...], dict[str, Any]]
else:
    T, _Base = object, {object: object}  # `typing` costs more than all of it


def row(*arguments: object, **named: object) -> Row:
    return arguments, named


class Table(_Base[T]):
    """Key -> record, in the order of the rows.

    rows  as they stand in it, for who wants no record of each"""

    def __init__(self, kind: Callable[..., T], rows: Mapping[str, Row]) -> None:
        self.kind, self.rows = kind, rows
        self._made: dict[str, T] = {}

    def __getitem__(self, key: str) -> T:
        if key not in self._made:
            arguments, named = self.rows[key]
            self._made[key] = self.kind(*arguments, **named)
        return self._made[key]

    def get(self, key: str) -> T | None:
        return self[key] if key in self.rows else None

    def __contains__(self, key: object) -> bool:
        return key in self.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def values(self) -> list[T]:
        """All of them."""
        return [self[key] for key in self.rows]

    def items(self) -> list[tuple[str, T]]:
        return [(key, self[key]) for key in self.rows]
