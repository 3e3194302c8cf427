"""Files as nobody would write them: valid ones, changed by type, size, depth, name, bit and byte.

All is drawn from a :class:`random.Random`, so that a seed is an input.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import yaml

DEEP, LONG = 100_000, 200_000
OUTSIDE = "../../../outside"
SAID = ("", " ", "all", "none", "auto", "latest", ".", "..", "../..", OUTSIDE, "/", "x/y", "~",
        "a\0b", "\ud800", "\u202e", "é" * 300, "[bold]", "{0.__class__}", "%s%n", "1e999", "NaN",
        "-1", "9" * 5000, "2026-13-45", "2026-01-01", "9999-12-31T23:59:59Z", "<f8", ">f4", "|O",
        "|V8", "<M8[ns]", "<U9", "<c16", "|b1", "float64", "int8", "string", "bytes", "pickle",
        "!!python/object/apply:os.mkdir [x]", "x" * LONG)
NUMBERS = (0, 1, 2, 3, 7, -1, -2, 255, 2**31, 2**32, -2**31, 2**53, 2**63 - 1, 2**63, 2**64,
           10**9, 10**12, 10**15, 10**18, 10**25, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308,
           float("nan"), float("inf"), -float("inf"))
CODECS = ({"id": "pickle", "protocol": 5}, {"name": "pickle"}, {"name": "numcodecs.pickle"},
          {"id": "json2"}, {"id": "vlen-utf8"}, {"id": "zlib", "level": 1}, {"name": "gzip"},
          {"name": "zstd", "configuration": {"level": 3}}, {"name": "transpose"},
          {"name": "transpose", "configuration": {"order": [1, 0]}}, {"name": "vlen-utf8"},
          {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle",
                                              "typesize": 8, "blocksize": 0}},
          {"name": "sharding_indexed"}, {"name": "bytes", "configuration": {"endian": "big"}})


class Canary:
    """Whose pickle makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.mkdir, (Path(self.path),)


def value(rng, depth=0):
    """What no reader has asked for."""
    pick = rng.randrange(12)
    if pick < 4:
        return rng.choice(NUMBERS)
    if pick < 7:
        return rng.choice(SAID)
    if pick < 9:
        return rng.choice((None, True, False, [], {}))
    if pick == 9:
        return json.loads(json.dumps(rng.choice(CODECS)))
    if depth > 2:
        return [rng.choice(NUMBERS)] * rng.choice((2, 1000))
    if pick == 10:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {str(rng.choice(SAID)): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def places(tree):
    """Every container of a tree, with the key or index of every child."""
    found, waiting = [], [tree]
    while waiting:
        here = waiting.pop()
        keys = here.keys() if isinstance(here, dict) else range(len(here))
        for key in keys:
            found.append((here, key))
            if isinstance(here[key], (dict, list)):
                waiting.append(here[key])
    return found


def changed_tree(rng, tree):
    """A tree of JSON with a few changes; it may be none at all any more."""
    if rng.random() < 0.02:
        return value(rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        everywhere = places(tree) if isinstance(tree, (dict, list)) else []
        if not everywhere:
            return value(rng)
        here, key = rng.choice(everywhere)
        _change(rng, here, key, everywhere)
    return tree


def _change(rng, here, key, everywhere):
    pick, now = rng.randrange(10), here[key]
    if pick < 4:
        here[key] = value(rng)
    elif pick == 4:
        del here[key]
    elif pick == 5:
        other, at = rng.choice(everywhere)
        if at in other if isinstance(other, dict) else at < len(other):
            here[key] = json.loads(json.dumps(other[at]))
    elif pick == 6 and isinstance(now, (int, float)) and abs(now) < 1e300:
        here[key] = rng.choice((now + 1, now - 1, -now, now * 1000, now // 3, [now], now * 1e12
                                if abs(now) < 1e12 else str(now)[:5], bool(now)))
    elif pick == 7:
        here[key] = rng.choice(([now], {"x": now}, [now, now], [now] * 1000))
    elif pick == 8 and isinstance(here, dict):
        here[str(rng.choice(SAID))] = here.pop(key)
    elif pick == 9 and isinstance(now, str):
        at = rng.randrange(len(now) + 1)
        here[key] = rng.choice((now[:at], now + now, now[:at] + rng.choice(SAID) + now[at:]))
    else:
        here[key] = value(rng)


def changed_bytes(rng, content):
    """Bytes that are cut, flipped, doubled, or mixed with others."""
    content = bytearray(content)
    at = rng.randrange(len(content) + 1)
    pick = rng.randrange(8)
    if pick == 0:
        return bytes(content[:at])
    if pick == 1 and content:
        for _ in range(rng.choice((1, 1, 8, 64))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        return bytes(content)
    if pick == 2:
        return b""
    if pick == 3:
        return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\0")) + content
    if pick == 4:
        return bytes(content[:at]) + rng.randbytes(rng.choice((1, 16, 4096))) + content[at:]
    if pick == 5:
        return bytes(content) + content[at:]
    if pick == 6:
        return rng.randbytes(rng.choice((1, 64, 10_000)))
    end = min(len(content), at + rng.choice((1, 4, 64)))
    return bytes(content[:at]) + bytes(content[end:])


def changed_json(rng, content):
    """JSON whose tree, or whose text, is another."""
    if rng.random() < 0.15:
        return changed_bytes(rng, content)
    if rng.random() < 0.03:
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        return (opening * DEEP + "1" + closing * rng.choice((0, DEEP))).encode()
    try:
        tree = json.loads(content)
    except ValueError:
        return changed_bytes(rng, content)
    text = json.dumps(changed_tree(rng, tree), indent=rng.choice((None, 1)))
    if rng.random() < 0.03:  # a name that is there twice
        text = text.replace("{", '{"shape": [1], "run": 1,', 1)
    return text.encode()


YAML_LINES = (
    "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi",
                                                                    strict=True)),
    "cluster: &c {kind: *c}\n", "cluster: &c {options: {x: *c}}\n", "alerts: &a [*a]\n",
    "<<: *nobody\n", "<<: [1, 2]\n", "? [a, b]\n: 1\n", "? {a: b}\n: 1\n", "store: !!binary x\n",
    "rank: !!python/object/apply:os.mkdir [outside]\n", "rank: !!python/name:os.mkdir\n",
    "rtol: 1:30:00\n", "rank: 0x" + "f" * 5000 + "\n",
    "rank: 0x10\n", "rank: 2026-01-01\n", "rank: !!set {a, b}\n",
    "rank: !!timestamp 2026-99-99\n", "rank: !!int 9e9\n", "--- a\n--- b\n", "%YAML 9.9\n---\n",
    "\t- x\n", "store: x\nstore: y\n", "- store\n", "null: null\n", "1: 2\n", "? \n: \n",
    "window: last " + "9" * 5000 + " days\n", "window: last 10000000000 days\n",
    "rank: " + "9" * 5000 + "\n", "rank: !!float " + "9" * 5000 + "\n",
    "window: " + "[" * DEEP + "\n", "window: " + "{a: " * 2000 + "\n", "x: " + "- " * 5000 + "1\n",
    "cluster: {kind: local, memory_limit: 1e400GB}\n", "cluster: {memory_limit: NaN}\n",
    "alerts: {stale_after: " + "9" * 400 + "h}\n", "alerts: {sharpness_above: .nan}\n",
    "alerts: {webhook: 'http://[::1'}\n", "cluster: {wait_seconds: .inf}\n")


@cache
def _as_json(content):
    return json.dumps(yaml.safe_load(content))


def changed_yaml(rng, content):
    """Settings whose tree, or whose text, is another."""
    pick = rng.random()
    if pick < 0.15:
        return changed_bytes(rng, content)
    if pick < 0.4:
        line = rng.choice(YAML_LINES).encode()
        return rng.choice((line, content + b"\n" + line, line + content))
    tree = changed_tree(rng, json.loads(_as_json(content)))
    if pick < 0.7:  # which is YAML, too, and is written ten times as fast
        return json.dumps(tree).encode()
    try:
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError):
        return json.dumps(tree).encode()


def changed_text(rng, content):
    """A short text that is another."""
    if rng.random() < 0.5:
        return changed_bytes(rng, content)
    return str(rng.choice(SAID)).encode("utf-8", "surrogatepass")


def npy(array, header=None):
    """The bytes of a .npy file, with a header that may lie."""
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=True)
    content = out.getvalue()
    if header is None:
        return content
    said = header.encode("latin1")
    return b"\x93NUMPY\x02\x00" + len(said).to_bytes(4, "little") + said + content[128:]


def changed_npy(rng, content, canary):
    """One array as no writer leaves it; some would run code if they were believed."""
    pick = rng.randrange(10)
    if pick < 3:
        return changed_bytes(rng, content)
    if pick == 3:
        return npy(np.array([Canary(canary)], dtype=object))
    if pick == 4:
        return pickle.dumps(Canary(canary))
    shape = rng.choice(("(3, 8)", "(10**15, 8)", f"({10**15}, 8)", "(-1, 8)", f"({2**62}, 8)", "()",
                        f"({10**9}, 8)", "(3,)", "(True, 8)", "(3.0, 8)", f"({10**400},)",
                        "(3, " * 500 + "1" + ")" * 500, "(" * 5000))
    dtype = rng.choice(("'<f8'", "'|O'", "'<U9'", "'<M8[s]'", "'<c16'", f"'|V{2**31 - 1}'", "'|b1'",
                        "'<f2'", "[('a', '<f8')]", f"'<U{10**8}'", "'x'", "1", "'<f8, <f8'"))
    return npy(np.ones((3, 8)), f"{{'descr': {dtype}, 'fortran_order': "
                                f"{rng.choice(('False', 'True', '1'))}, 'shape': {shape}, }}\n")


def changed_npz(rng, canary):
    """Arrays x and y in a zip file, some of them, or the file itself, as nobody writes them."""
    arrays = {name: npy(np.random.default_rng(0).standard_normal((5, 8))) for name in "xy"}
    arrays["weight"] = npy(np.ones(5))
    for name in "xy":
        if rng.random() < 0.4:
            arrays[name] = changed_npy(rng, arrays[name], canary)
    if rng.random() < 0.1:
        arrays["weight"] = npy(np.asarray(rng.choice((np.ones(3), "x", -np.ones(5), 1.0))))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as into:
        for name, content in arrays.items():
            into.writestr(rng.choice((f"{name}.npy",) * 8 + (name, f"../{name}.npy")), content)
    content = out.getvalue()
    return changed_bytes(rng, content) if rng.random() < 0.3 else content
