"""Small pictures of characters: an interval around zero, evidence on its way, a line over time."""

from collections.abc import Sequence

from rich.text import Text

_STEPS = "▁▂▃▄▅▆▇█"


def interval(lower: float | None, estimate: float | None, upper: float | None, reach: float, width: int = 41) -> Text:
    """An interval on the scale from -`reach` to +`reach`, zero in the middle: `····├──●──┤│·····`.

    Green when it lies above zero, red below; empty while there is none.
    """
    middle = width // 2
    cells = ["·"] * width

    def cell(value: float) -> int:
        return middle + round(max(-1.0, min(1.0, value / reach)) * middle)

    if lower is not None and upper is not None and reach > 0:
        left, right = cell(lower), cell(upper)
        cells[left : right + 1] = ["─"] * (right - left + 1)
        cells[left], cells[right] = "├", "┤"
    if estimate is not None and reach > 0:
        cells[cell(estimate)] = "●"
    if cells[middle] != "●":
        cells[middle] = "│"
    clear = lower is not None and upper is not None and (lower > 0 or upper < 0)
    return Text("".join(cells), style=("green" if (lower or 0) > 0 else "red") if clear else "")


def gauge(share: float, width: int = 41, *, style: str = "cyan") -> Text:
    """How far something has come, from 0 to 1: `━━━━━━━────────`."""
    filled = round(max(0.0, min(1.0, share)) * width)
    return Text("━" * filled, style=style).append("─" * (width - filled), style="dim")


def line(shares: Sequence[float | None], low: float = 0.0, high: float = 1.0) -> str:
    """Values over time, one character each, on a scale from `low` to `high`; a gap where there is none.

    >>> line([0.0, 0.5, None, 1.0])
    '▁▅ █'
    """
    span = (high - low) or 1.0

    def step(value: float) -> str:
        return _STEPS[min(len(_STEPS) - 1, max(0, int((value - low) / span * len(_STEPS))))]

    return "".join(" " if share is None else step(share) for share in shares)
