"""Which source of this package a process has loaded.

The digest is taken when the package is imported: a process that was there before `git pull` or
`pip install` goes on with the source from before, whatever lies on disk by now.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["SOURCE"]


def _digest() -> str:
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


SOURCE = _digest()
