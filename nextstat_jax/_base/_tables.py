"""Results as text, as plain Python values, and as data frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._errors import MissingExtraError

if TYPE_CHECKING:
    import pandas as pd


def text_table(header: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> str:
    """A table of aligned columns: words to the left, numbers to the right, six digits."""
    body = [[_cell(value) for value in row] for row in rows]
    numeric = [all(isinstance(row[k], float) for row in body) for k in range(len(header))]
    words = [list(header)] + [[_word(value) for value in row] for row in body]
    widths = [max(len(row[k]) for row in words) for k in range(len(header))]
    lines = []
    for row in words:
        cells = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join([title, *lines] if title else lines)


def _cell(value: Any) -> str | float:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return float(value)


def _word(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def plain(value: Any) -> Any:
    """A JSON-safe copy: arrays become lists; numbers that are not finite, for which JSON has no word, become None."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    listed = np.asarray(value).tolist()
    if isinstance(listed, list):
        return [plain(item) for item in listed]
    return None if isinstance(listed, float) and not math.isfinite(listed) else listed


def dataframe(columns: Mapping[str, Any], index: Any = None) -> pd.DataFrame:
    """A pandas data frame of equally long columns.

    Raises:
        MissingExtraError: If pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtraError("pandas", "pandas") from None
    return pd.DataFrame({name: np.asarray(column) for name, column in columns.items()}, index=index)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names in a sentence, not more than a reader takes in."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
