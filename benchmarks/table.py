"""The one table."""

from collections.abc import Sequence

HEADER = (
    "workspace",
    "case",
    "engine",
    "first call",
    "median",
    "minimum",
    "x ours",
    "x ours, min",
    "objective",
    "remark",
)


def render(rows: Sequence[dict], reference: str) -> str:
    """Return the rows as text; the ratios of medians and minima are to `reference` in the same case."""
    ours = {(row["workspace"], row["case"]): row for row in rows if row["engine"] == reference}
    lines = [HEADER]
    for row in sorted(rows, key=_position(rows)):
        base = ours.get((row["workspace"], row["case"]), {}) if row["engine"] != reference else {}
        lines.append(
            (
                row["workspace"],
                row["case"],
                row["engine"],
                seconds(row.get("first_call")),
                seconds(row.get("median")),
                seconds(row.get("minimum")),
                ratio(row, base, "median"),
                ratio(row, base, "minimum"),
                f"{row['objective']:.6f}" if "objective" in row else "",
                remark(row),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )


def _position(rows: Sequence[dict]):
    # Workspaces and cases in the order in which they came, with the engines of one case together.
    order = {}
    for row in rows:
        order.setdefault((row["workspace"], row["case"]), len(order))
    return lambda row: order[row["workspace"], row["case"]]


def ratio(row: dict, base: dict, statistic: str) -> str:
    """Say how many times longer `row` took than `base`, where both were measured."""
    return f"{row[statistic] / base[statistic]:.1f}" if statistic in row and statistic in base else ""


def seconds(value: float | None) -> str:
    """Write a time with a unit that needs no zeros."""
    if value is None:
        return ""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1.0 or unit == "us":
            return f"{value * factor:.3g} {unit}" if value * factor < 1000 else f"{value * factor:.0f} {unit}"
    return ""


def remark(row: dict) -> str:
    """Say what belongs beside the number: why there is none, the status, the iterations."""
    if "error" in row:
        return f"failed: {row['error']}"
    if "skipped" in row:
        return row["skipped"]
    parts = []
    if "converged" in row:
        parts.append("converged" if row["converged"] else f"NOT converged: {row.get('status', '')}")
    if row.get("n_iter"):
        parts.append(f"{row['n_iter']} iterations")
    if "temporary_bytes" in row:
        sizes = (f"{int(points):,}: {size / 1e6:.0f} MB" for points, size in row["temporary_bytes"].items())
        parts.append(f"temporary memory {', '.join(sizes)}")
    if "second_workspace" in row:
        parts.append(f"a second workspace compiles {row['second_workspace']['programs_compiled']} programs")
    if row.get("note"):
        parts.append(row["note"])
    return "; ".join(parts)
