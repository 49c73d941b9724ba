"""Any path as part of a line of ASCII: what is no plain character is escaped as in Python."""

from __future__ import annotations


def escape(path: str) -> str:
    if path.isascii() and path.isprintable() and "\\" not in path:
        return path  # without the codec, which is a file of its own: 0.3 ms
    return path.encode("unicode_escape").decode()


def unescape(text: str) -> str:
    """Raises ValueError for what escape() does not write."""
    if "\\" not in text and text.isascii():
        return text
    return text.encode("ascii").decode("unicode_escape")
