"""What the rows of the coverage run say: the table of docs/families.md, and the packaged list.

`tests/doc_tables.py` writes both, and a test holds them equal to `benchmarks/results/families.csv`.
"""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "benchmarks" / "results" / "families.csv"
PROVEN = ROOT / "edgevit" / "assets" / "proven_models.csv"
HEAD = (
    "family",
    "models",
    "on cpu",
    "engine - simulation",
    "MACs in integers",
    "time of fp32",
    "edgevit W6A6",
    "jetson-orin-nano",
    "SM89",
    "what does not work",
)
Row = dict[str, str]


def family_rows() -> list[Row]:
    """Return the last row of each model, none before the first run."""
    if not ROWS.exists():
        return []
    with ROWS.open(newline="") as file:
        return list({row["model"]: row for row in csv.DictReader(file)}.values())


def cells(rows: list[Row]) -> tuple[str, ...]:
    """Return the cells of one family; of several models the worst counts, and is named."""
    return (
        rows[0]["family"] + " (mobile)" * (rows[0]["mobile"] == "yes"),
        ", ".join(f"`{row['model']}`" for row in rows),
        _all(rows, "on_cpu"),
        _worst(rows, "difference_to_noise", max, "{:.3f}"),
        _worst(rows, "integer_percent", min, "{:.1f} %"),
        _worst(rows, "latency_ratio", max, "{:.2f}"),
        _all([row for row in rows if row["w6a6"]], "w6a6"),
        _jetson(rows),
        _all(rows, "sm89"),
        "; ".join(dict.fromkeys(filter(None, map(_reason, rows)))),
    )


def summary(families: dict[str, list[Row]]) -> tuple[str, ...]:
    """Return the cells of the last row: how many families work, and medians."""
    rows = [row for one in families.values() for row in one]

    def count(key: str) -> str:
        asked = [one for one in families.values() if any(row[key] for row in one)]
        works = sum(all(row[key] in ("yes", "") for row in one) for one in asked)
        return f"**{works} of {len(asked)}**"

    conforming = sum(_jetson(one) == "yes" for one in families.values())
    return (
        "**all**",
        f"**{len(rows)}**",
        count("on_cpu"),
        _median(rows, "difference_to_noise", "{:.3f}"),
        _median(rows, "integer_percent", "{:.1f} %"),
        _median(rows, "latency_ratio", "{:.2f}"),
        count("w6a6"),
        f"**{conforming} of {len(families)}**",
        count("sm89"),
        "numbers are medians over models",
    )


def table() -> list[tuple[str, ...]]:
    """Return the cells of all families, and of the last row."""
    families: dict[str, list[Row]] = {}
    for row in family_rows():
        families.setdefault(row["family"], []).append(row)
    return [*map(cells, families.values()), summary(families)]


def proven() -> str:
    """Return the packaged list: models that ran on cpu, and whether their export conforms."""
    works = [row for row in family_rows() if row["on_cpu"] == "yes"]
    lines = [f"{row['model']},{'yes' if _jetson([row]) == 'yes' else 'no'}\n" for row in works]
    return "".join(["model,jetson\n", *sorted(lines)])


def _all(rows: list[Row], key: str) -> str:
    return ", ".join(dict.fromkeys(row[key] for row in rows))


def _jetson(rows: list[Row]) -> str:
    found = (
        f"{row['jetson_errors']} errors" if int(row["jetson_errors"] or 0) else row["jetson"]
        for row in rows
    )
    return ", ".join(dict.fromkeys(found))


def _worst(rows: list[Row], key: str, which: object, form: str) -> str:
    values = [float(row[key]) for row in rows if row[key]]
    return form.format(which(values)) if values and callable(which) else ""


def _median(rows: list[Row], key: str, form: str) -> str:
    values = [float(row[key]) for row in rows if row[key]]
    return f"**{form.format(statistics.median(values))}**" if values else ""


def _reason(row: Row) -> str:
    """Return why a step failed, or why products stay in float where many do."""
    low = row["integer_percent"] and float(row["integer_percent"]) < 85
    text = row["error"] or (f"in float: {row['float_reasons']}" if low else "")
    return text.replace("|", "/")
