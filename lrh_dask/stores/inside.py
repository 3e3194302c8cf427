"""Names that lead to nothing but what lies in their folder: no way up, no link out of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lrh_dask.errors import SettingsError, explain

__all__ = ["inside", "no_link", "refuse_links"]

PLAIN = re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,254}")


def inside(folder: Path, name: str) -> Path:
    """What has a name in a folder, if anything has.

    Raises:
        SettingsError: the name leads elsewhere.
    """
    if not PLAIN.fullmatch(name):
        raise SettingsError(explain(
            f"{name!r} in {folder}", expected="the plain name of something in that folder",
            got="one that may lead elsewhere", consequence="Nothing was changed",
            fix="Give the name alone, as `lrh status` and `lrh runs` list it"))
    refuse_links(folder / name)
    return folder / name


def refuse_links(*paths: Path) -> None:
    """Raise where something of our own is a symbolic link: what is written there goes elsewhere.

    Raises:
        SettingsError: one is.
    """
    for path in paths:
        if path.is_symlink():
            raise SettingsError(explain(
                f"use {path}", expected="a folder of our own", got="a symbolic link",
                consequence="What it leads to would be written over or removed, so nothing was "
                            "changed", fix="Remove the link, or name the folder it leads to"))


def no_link(path: str, flags: int) -> int:
    """An opener for :func:`open` that follows no symbolic link.

    Raises:
        OSError: the path is one.
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
