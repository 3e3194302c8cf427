"""Documents: what a file of JSON says, if it says what was asked for.

A file may be cut, be another program's, or be made up by somebody. Whatever is wrong with one is a
ValueError, so that who reads it has one error to tell.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["MALFORMED", "known", "parsed", "read_document"]

MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What comes of taking a document for what it is not."""
HALF_A_SIGN = re.compile(r"\\u[dD][89a-fA-F]")
T = TypeVar("T")


def parsed(text: str | bytes) -> Any:
    """What a text of JSON says.

    Raises:
        ValueError: it is none, is nested beyond all measure, or holds what no text can be.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        found = json.loads(text)
    except RecursionError as error:
        message = "it is nested too deep"
        raise ValueError(message) from error
    if HALF_A_SIGN.search(text):
        json.dumps(found, ensure_ascii=False).encode()
    return found


def read_document(path: Path) -> dict[str, Any]:
    """The names and values in a file of JSON.

    Raises:
        OSError: it cannot be read.
        ValueError, TypeError: it holds none.
    """
    return _mapping(parsed(path.read_bytes()))


def _mapping(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        message = f"{type(found).__name__}, where names and values are due"
        raise TypeError(message)
    return found


def known(kind: type[T], value: Any) -> T:
    """A dataclass from its fields as JSON has them; names that it does not have are passed by.

    Raises:
        ValueError: one is missing, or of another type.
    """
    reader: Any = _reader
    found: T = reader(kind).validate_python(value)
    return found


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
