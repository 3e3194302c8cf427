"""YAML that names what it holds by line: no code, no key twice, no bombs."""

from __future__ import annotations

import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from lrh_dask.errors import SettingsError, explain
from lrh_dask.stores.documents import MALFORMED

__all__ = ["Lines", "read_yaml"]

MOST_BYTES = 2**20
MOST_NODES = 100_000
"""So many there may be once every alias is written out."""
DEEPEST = 64
"""Brackets in each other."""
Lines = dict[tuple[str, ...], int]
"""Where each key stands, by the keys on the way to it."""


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML file, and the lines of its keys.

    Raises:
        SettingsError: it cannot be read, is no mapping of names, says a key twice, or is larger
            than settings can be.
    """
    try:
        with path.open("rb") as file:
            return _parsed(file.read(MOST_BYTES + 1))
    except (OSError, RecursionError, yaml.YAMLError, _Refused, *MALFORMED) as error:
        raise SettingsError(explain(
            f"read settings {path}", expected="a YAML file that is a mapping of settings",
            got=" ".join(str(error).split()), consequence="Nothing was started",
            fix="See configs/quickstart.yaml")) from error


class _Refused(Exception):
    """What is wrong with a file that is YAML."""


def _parsed(content: bytes) -> tuple[dict[str, Any], Lines]:
    if len(content) > MOST_BYTES:
        raise _Refused(f"more than {MOST_BYTES // 2**20} MiB")
    text, lines = content.decode(), Lines()
    brackets = (1 if sign in "[{" else -1 for sign in re.findall(r"[\[\]{}]", text))
    if max(accumulate(brackets), default=0) > DEEPEST:  # minutes for the parser
        raise _Refused(f"more than {DEEPEST} brackets in each other")
    loader = yaml.SafeLoader(text)
    root = loader.get_single_node()
    if not isinstance(root, yaml.MappingNode):
        raise _Refused("nothing" if root is None else "no mapping")
    _look(root, (), lines, [0])
    return loader.construct_document(root), lines


def _look(node: yaml.Node, way: tuple[str, ...], lines: Lines, counted: list[int]) -> None:
    """Note the lines of all keys; nodes behind an alias count as often as it stands."""
    counted[0] += 1
    if counted[0] > MOST_NODES or len(way) > 100:
        raise _Refused(f"more than {MOST_NODES} values once its aliases are written out")
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _look(item, (*way, str(i)), lines, counted)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line, here = key.start_mark.line + 1, (*way, str(key.value))
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused(f"a key that is no name in line {line}")
            if here in lines:
                raise _Refused(f"`{'.'.join(here)}` twice, in lines {lines[here]} and {line}")
            lines[here] = line
            _look(value, here, lines, counted)
