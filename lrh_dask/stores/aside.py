"""Written aside and renamed: what has its name is whole, and a killed writer leaves only asides."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lrh_dask.errors import SettingsError, explain
from lrh_dask.stores.documents import MALFORMED, read_document

__all__ = ["attributes_of", "beside", "put_in_order", "refuse_existing", "refuse_unwritable",
           "replace_file", "written_aside"]

BESIDE = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{12}\.(?P<end>tmp|old)")
"""What is being written has such a name until it is whole."""


@contextlib.contextmanager
def written_aside(path: str | Path, *, overwrite: bool,
                  is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """A folder beside ``path`` to write into; it takes the name ``path`` at the end, or is gone.

    Args:
        is_ours: whether what lies at a path is of the kind that may be overwritten.
    Raises:
        SettingsError: ``path`` is taken (see :func:`refuse_existing`) or cannot be written.
    """
    path = Path(path)
    refuse_existing(path, overwrite=overwrite, is_ours=is_ours)
    aside = beside(path)
    old = aside.with_suffix(".old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
    except OSError as error:
        raise SettingsError(explain(
            f"write {path}", expected="a folder that can be written", got=str(error),
            consequence="Nothing was written", fix="Choose another place with --out")) from error
    try:
        yield aside
        _sync_tree(aside)
        refuse_existing(path, overwrite=overwrite, is_ours=is_ours)  # another run may be done
        if overwrite and path.exists():
            os.replace(path, old)
        try:
            os.replace(aside, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            refuse_existing(path, overwrite=False, is_ours=is_ours)  # done just now
            raise
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def beside(path: Path) -> Path:
    """A name beside ``path`` that nobody else has."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def put_in_order(folder: Path) -> None:
    """Remove what killed writers have left in a folder, where nobody else writes now.

    What one had moved away to put something in its place is moved back.
    """
    for path in folder.glob(".*"):
        known = BESIDE.fullmatch(path.name)
        if known is None:
            continue
        place = path.with_name(known["name"])
        if known["end"] == "old" and not place.exists():
            os.replace(path, place)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def refuse_existing(path: Path, *, overwrite: bool, is_ours: Callable[[Path], bool]) -> None:
    """Raise unless ``path`` is free, or may be overwritten.

    Raises:
        SettingsError: it exists and ``overwrite`` is False, it is not ours, or is no name.
    """
    if not path.name or path.name == "..":
        raise SettingsError(explain(
            f"write {path}", expected="the name of a new folder", got="no name",
            consequence="Nothing was computed", fix="Give a name such as result.zarr"))
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise SettingsError(explain(
            f"write {path}", expected="a new path", got="one that exists",
            consequence="Nothing was computed, and it was left as it is",
            fix="Choose another path or pass --overwrite (overwrite=True)"))
    if path.is_symlink() or not is_ours(path):
        raise SettingsError(explain(
            f"overwrite {path}", expected="what an earlier call wrote there",
            got="something else", consequence="Nothing was computed, and it was left as it is",
            fix="Choose another path, or remove it yourself"))


def refuse_unwritable(path: Path, fix: str = "Choose another place with --out",
                      name: str = "") -> None:
    """Raise where nothing can be written, before hours go into what would go there.

    Raises:
        SettingsError: the folder cannot be made or written.
    """
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise SettingsError(explain(
            f"write {name or path}", expected="a folder that can be written", got=str(error),
            consequence="Nothing was computed", fix=fix)) from error


def replace_file(path: Path, text: str, mode: int = 0o666) -> None:
    """Give a file this text, whole or not at all; ``mode`` is subject to the umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = beside(path)
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w",
                  encoding="utf-8") as file:
            file.write(text)
        _sync(aside)
        os.replace(aside, path)
        _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def attributes_of(path: Path) -> dict[str, Any]:
    """Attributes of the Zarr group at a local path; empty where there is none."""
    try:
        return dict(read_document(path / "zarr.json").get("attributes", {}))
    except (OSError, *MALFORMED):
        return {}


def _sync_tree(folder: Path) -> None:
    """Flush a folder to disk, names included: Zarr's local store leaves that to the system."""
    for root, _, files in os.walk(folder):
        for name in files:
            _sync(Path(root) / name)
        _sync(Path(root))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
