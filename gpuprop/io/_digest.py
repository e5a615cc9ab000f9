"""The digest of a state file, by which `load` sees that it is the file that `save` wrote.

It is the SHA-256 of the names, types, shapes and CRC-32 of all arrays.  A digest inside of the file
cannot show that someone changed both, so the bytes need no cryptographic hash: CRC-32 is two to
seven times faster, and the zip format computes it anyway.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

PREFIX = "gpuprop:"


def digest(content: Any) -> str:
    """The prefix and the SHA-256 of values that JSON can represent."""
    return PREFIX + hashlib.sha256(json.dumps(content).encode()).hexdigest()


def check_digest(saved: str, content: Any) -> None:
    """Raise ValueError unless `saved` is the digest of `content`."""
    if saved != digest(content):
        raise ValueError("its digest does not match its content: it was damaged, or another "
                         "program changed it, after it was saved: use another copy")
