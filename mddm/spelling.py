"""What a mistyped word was meant to be; light, for errors that come before PyTorch is loaded."""

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """Return the end of a message about a mistyped word; empty where none is near."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
