"""What can go wrong, said so that a person can act on it.

Every message has the same four parts: where, expected and got, consequence, fix.
The class decides the exit code of the command line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["BadPairs", "LrhError", "RunFailed", "SettingsError", "explain", "finding",
           "is_refusal", "printable", "public_name", "public_text"]

ADDRESS = re.compile(
    r"""(?:[a-zA-Z][a-zA-Z0-9+.-]{0,31}|[a-zA-Z0-9+.-]{32})://(?:\S{0,4096}@)?[^\s"'<>`|]*""")
"""A URL in a text; what is before an @ may hold anything. Texts of any length are gone through in
a time in proportion to it: a file may hold anything, and what it says is quoted."""
FAR = 2 * 4096
"""Further than any @ of an address is from where it begins."""
STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What steers a terminal, or turns the direction in which it writes."""


SHOWN = 1500
"""Characters of a part of a message."""


class _Explained(str):
    """The text of an error, which knows its first part."""

    finding: str


def explain(where: str, *, expected: str, got: str, consequence: str, fix: str) -> str:
    """The text of an error: <where>: expected <x>, got <y>. <consequence>. <fix>.

    What others have said may stand in it: addresses are shown without their credentials.
    """
    where, got = _shown(where), _shown(got)
    expected, consequence, fix = map(public_text, (expected, consequence, fix))
    parts = [f"{where}: expected {expected}, got {got}", consequence, fix]
    text = _Explained(" ".join(part if part.endswith((".", "?")) else f"{part}."
                               for part in parts))
    text.finding = parts[0]
    return text


def _shown(text: str) -> str:
    """A public text as far as a person would read it: it may quote what a file says."""
    public = public_text(text[:SHOWN + FAR])  # an address may begin where it is cut
    if len(text) <= SHOWN:
        return public
    return f"{public[:SHOWN]} ... ({len(text):,} characters)"


def finding(error: BaseException) -> str:
    """What an error has found, for who goes on: its consequence and fix are for who stops."""
    said = error.args[0] if error.args else ""
    return said.finding if isinstance(said, _Explained) else str(error)


def public_name(store: Any) -> str:
    """A store's name for messages, without the credentials a URL may carry."""
    if not isinstance(store, (str, Path)):
        return public_text(str(getattr(store, "store_path", type(store).__name__)))
    scheme, separator, rest = str(store).partition("://")
    if not separator:
        return scheme
    user, _, place = rest.rpartition("@")
    if "?" in user or "#" in user:  # a password may have these in it, a query an @
        return f"{scheme}://..."
    return f"{scheme}://{re.split('[?#]', place)[0]}"  # what follows may hold a signature


def public_text(text: str) -> str:
    """A text in which addresses have no credentials, whoever wrote it."""
    return ADDRESS.sub(lambda found: public_name(found[0]), text)


def printable(text: str) -> str:
    r"""A text as a terminal may have it: what would steer that is written out, such as \x1b."""
    return STEERS.sub(lambda found: repr(found[0])[1:-1], text)


def is_refusal(error: BaseException) -> bool:
    """Whether an error is of object storage: what it answered, or that there was no answer."""
    return type(error).__module__.partition(".")[0] in {"obstore", "pyo3_async_runtimes"}


class LrhError(Exception):
    """Base of all errors that are meant for the user.

    Attributes:
        exit_code: of the command line.
        has_result: the run is done all the same, and what it prints was printed.
    """

    exit_code = 4
    has_result = False


class SettingsError(LrhError, ValueError):
    """A call or a setting that cannot be carried out."""

    exit_code = 2


class BadPairs(LrhError, ValueError):
    """The stored pairs cannot be used as they are."""

    exit_code = 3


class RunFailed(LrhError, RuntimeError):
    """The cluster or the machine could not carry the run through."""

    exit_code = 4
