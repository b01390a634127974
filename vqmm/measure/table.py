"""Rows as a person reads them: ours beside the next best, a line a shape, task and precision."""

from collections.abc import Iterator, Sequence
from typing import Any

HEAD = (
    "shape",
    "N",
    "K",
    "D",
    "Q",
    "what",
    "precision",
    "vqmm ms",
    "MiB",
    "roofline",
    "others: ms (times ours)",
    "path",
)
SHORT = {"vector-quantize-pytorch": "vq-pytorch"}

Row = dict[str, Any]


def groups(rows: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Each row of ours, and the competitors it is compared with: those of the like precision, the fastest first."""
    for row in rows:
        if row["contender"] != "vqmm":
            continue
        same = (r for r in rows if (r["name"], r["task"]) == (row["name"], row["task"]) and r["contender"] != "vqmm")
        like = [r for r in same if "ms" in r and (r["precision"] == "float32") == (row["precision"] != "fast")]
        yield row, sorted(like, key=lambda r: r["ps_a_pair"])


def table(rows: Sequence[Row]) -> Iterator[list[object]]:
    """Cells for HEAD. A result that is wrong has its reason where the figure would be."""
    for row, others in groups(rows):
        shape = [row["name"], *(f"{row[letter]:,}" for letter in "nkd"), row["q"], row["task"], row["precision"]]
        if "ms" not in row:
            yield [*shape, f"WRONG: {row.get('wrong', row.get('skipped'))}", "-", "-", "-", "-"]
            continue
        ms, memory = row["ms"]["median"], row.get("extra_bytes")
        against = (_against(r, row) for r in others)
        weight = "-" if memory is None else f"{memory / 2**20:.1f}"
        yield [*shape, _ms(ms), weight, f"{row['roofline']['share']:.0%}", ", ".join(against), row["path"]]


def _against(row: Row, ours: Row) -> str:
    """Its time, and how many times ours that is, both on as many vectors."""
    name = str(SHORT.get(row["contender"], row["contender"]))
    name += "" if row["precision"] == "float32" else f" {row['precision']}"
    at = "" if row["n"] == ours["n"] else f" at N {row['n']:,}"
    times = row["times_ours"] if ours["precision"] != "certified" else row["ps_a_pair"] / ours["ps_a_pair"]
    return f"{name} {_ms(row['ms']['median'])}{at} ({times:.1f}x)"


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def notes(rows: Sequence[Row]) -> list[str]:
    """What was left out, or made smaller for want of memory, a line each; fewer vectors for want of time in one."""
    said: list[str] = []
    hurried = False
    for row in rows:
        why = row.get("note") or row.get("skipped") or ""
        if why and "s a call" in why and "GB" not in why:
            hurried = True
        elif why:
            what = f"{row['contender']} {row['precision']}".strip()
            said.append(
                f"{row['name']} {row['task']}: {what}: {why}" if what else f"{row['name']} {row['task']}: {why}"
            )
    hurry = ["N is smaller than the shape's where a call would take long; name a shape to give it all the time."]
    return list(dict.fromkeys(said)) + (hurry if hurried else [])
