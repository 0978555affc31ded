"""The tables that `./dev transfers` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS, HEADER, INTERPRETER = KINDS = ("ours", "header", "interpreter")
HOW = {True: "pinned", False: "unpinned", None: ""}
BEGIN = "<!-- ./dev transfers --markdown writes from here -->"
END = "<!-- to here -->"

Result = dict[str, Any]


def number(value: float) -> str:
    return f"{max(value, 0.0):.1f}"


def as_text(results: Sequence[Result], *, places: bool) -> str:
    """A line for each figure, and if asked for what it consists of."""
    width = max(len(each["name"]) for each in results)
    titles = ("transfers", OURS, HEADER, "interp.", "upgrades", "instr.", "ticks")
    lines = [f"{'':{width}}  {'on':6}{'threads':>8}{'':10}" + "".join(f"{t:>10}" for t in titles)]
    for each in results:
        how = HOW[each["pinned"]]
        figures = [each["transfers"], *(each["owners"][kind] for kind in KINDS), each["upgrades"]]
        lines.append(
            f"{each['name']:{width}}  {each['version']:6}{each['threads']:8}{how:>10}"
            + "".join(f"{figure:10.2f}" for figure in figures)
            + f"{each['instructions']:10.0f}{each['ticks']:10.0f}"
        )
        if places:
            lines += [place(found) for found in each["places"]]
    return "\n".join(lines)


def place(found: dict[str, Any]) -> str:
    kind = "upgrade" if found["upgrade"] else "transfer"
    beside = f", where {found['beside']} was written" if found["beside"] else ""
    return (
        f"    {found['count']:6.2f} {kind:8} {found['kind']:11} "
        f"{found['what']}, by {found['code']}{beside}"
    )


def as_markdown(results: Sequence[Result]) -> str:
    """Operations down; across, by version and number of threads, with the object pinned or not."""
    keys = ("version", "threads", "pinned")
    columns = sorted(
        {tuple(each[key] for key in keys) for each in results},
        key=lambda column: (column[0], column[1], column[2] is False),
    )
    cells = {(e["name"], *(e[key] for key in keys)): e["transfers"] for e in results}
    heads = [f"{version}, {threads} {HOW[pinned]}".strip() for version, threads, pinned in columns]
    lines = ["| transfers an operation | " + " | ".join(heads) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    for name in dict.fromkeys(each["name"] for each in results):
        found = [cells.get((name, *column)) for column in columns]
        row = [number(figure) if figure is not None else "" for figure in found]
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def into_page(page: Path, text: str) -> None:
    """Put the text between the marks of a page."""
    old = page.read_text()
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
