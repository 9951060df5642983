"""The report of a run: one page, `report/index.html`, with its result, its pictures and how it was made.

The page needs no network, and its pictures lie beside it, each also as SVG where that was drawn. A script inside the
page sorts its tables; without it all is there. What it shows of a result is text: everything is escaped.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jaxnas.files import write_atomic

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5c636b; --line: #d9dde1; --page: #ffffff; --tint: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --soft: #a0a8b0; --line: #3a4047; --page: #16191c; --tint: #20252a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 3rem; color: var(--ink); background: var(--page);
       font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
.lead { color: var(--soft); margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1.25rem .3rem 0; border-bottom: 1px solid var(--line);
         overflow-wrap: anywhere; }
thead th, tbody th { font-weight: 600; }
.wide th, .wide td { white-space: nowrap; overflow-wrap: normal; }
td.number, th.number { text-align: right; }
code, pre { font: .85rem/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { background: var(--tint); padding: .75rem; border-radius: .4rem; white-space: pre-wrap; margin: .5rem 0; }
figure { margin: 1.25rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
             border-radius: .4rem; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
thead th[tabindex] { cursor: pointer; }
thead th[aria-sort=ascending]::after { content: " ▲"; }
thead th[aria-sort=descending]::after { content: " ▼"; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(16rem, 100%), 1fr)); gap: 0 1.5rem; }
svg { width: 100%; height: auto; }
svg polyline { fill: none; stroke: #0072b2; stroke-width: 1.5; }
svg text { font: 10px system-ui, sans-serif; fill: var(--soft); }
"""
_SCRIPT = """
for (const table of document.querySelectorAll("table.wide")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace(/[,\u00a0±<>]/g, ""));
    return Number.isNaN(number) ? text.toLowerCase() : number;
  };
  const order = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  heads.forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => order(key(a, column), key(b, column)));
      body.append(...(down ? rows.reverse() : rows));
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
"""
"""Sorts a table by the column whose head is clicked, numbers before text; clicked again, the other way round."""


def write(
    run_path: str | os.PathLike[str],
    result: Mapping[str, Any],
    pictures: Sequence[tuple[str, str, str]],
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = (),
) -> Path:
    """Writes `run_path`/report/index.html in one step and returns its path.

    result: the content of result.json. Accuracies are fractions, "timing" is in seconds; fields that are not there are
    left out. pictures: (title, path relative to report/, caption), shown in turn. tables: (title, heads of the columns,
    rows of text as wide), before the pictures.

    Raises: ValueError where a picture is not in report/; OSError where the page cannot be written.
    """
    folder = Path(run_path) / "report"
    for _, relative, _ in pictures:
        inside = not Path(relative).is_absolute() and ".." not in Path(relative).parts
        if not inside or not (folder / relative).is_file():
            raise ValueError(
                f"there is no picture {relative!r} in {folder}; draw it there before the report is written"
            )
    dataset = f" on {result['dataset']}" if result.get("dataset") else ""
    body = [
        f"<h1>Architecture search{_text(dataset)}</h1>",
        f'<p class="lead">Run {_text(Path(run_path).absolute().name)}</p>',
        *_section("Result", _pairs(_facts(result))),
        *_section("Beside other networks", _networks(result)),
        *_section("Found genotype", _genotype(result)),
        *[part for title, head, rows in tables for part in _section(title, _table(head, rows))],
        *_section("Pictures", [part for picture in pictures for part in _figure(folder, *picture)]),
        *_section("Time", _pairs({_label(k): _duration(v) for k, v in (result.get("timing") or {}).items()})),
        *_section("Versions", _pairs({k: str(v) for k, v in (result.get("versions") or {}).items()})),
        *_section("Command", [f"<pre>{_text(result['command'])}</pre>"] if result.get("command") else []),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "index.html", page(f"Architecture search{dataset}", body))
    return folder / "index.html"


def write_index(
    path: Path, title: str, lead: str, head: Sequence[str], rows: Sequence[Sequence[str | tuple[str, str]]]
) -> None:
    """Writes a page with one table, in one step. A cell is text, or (text, address relative to the page)."""

    def cell(value: str | tuple[str, str]) -> str:
        if isinstance(value, str):
            return f"<td>{_text(value)}</td>"
        return f'<td><a href="{_text(quote(value[1]))}">{_text(value[0])}</a></td>'

    lines = ["<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows]
    table = _wide("".join(f"<th>{_text(name)}</th>" for name in head), lines)
    write_atomic(path, page(title, [f"<h1>{_text(title)}</h1>", f'<p class="lead">{_text(lead)}</p>', *table]))


def page(title: str, body: Sequence[str], refresh: float | None = None) -> str:
    """A whole page. body: elements, escaped where they must be. refresh: seconds after which a browser reloads it."""
    return "\n".join([
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        *([] if refresh is None else [f'<meta http-equiv="refresh" content="{refresh:.0f}">']),
        f"<title>{_text(title)}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        *body,
        f"<script>{_SCRIPT}</script>",
        "</body>",
        "</html>",
        "",
    ])  # fmt: skip


def _facts(result: Mapping[str, Any]) -> dict[str, str]:
    facts, metric = {}, metric_of(result)
    name = metric.replace("_", " ").capitalize()
    if result.get(f"test_{metric}") is not None:
        facts[f"{name}, test split"] = shown(result[f"test_{metric}"], metric, result.get("test_interval"))
    if f"valid_{metric}" in result:
        valid = result[f"valid_{metric}"]
        facts[f"{name}, validation split"] = shown(valid, metric) if valid is not None else "none was held out"
    for field, name in (("params", "Parameters"), ("macs", "MACs"), ("seed", "Seed"), ("dataset", "Data set")):
        if result.get(field) is not None:
            facts[name] = f"{result[field]:,}" if field in ("params", "macs") else str(result[field])
    return facts


def _networks(result: Mapping[str, Any]) -> list[str]:
    """The table of the found network and the baselines; nothing where there is no baseline."""
    if not result.get("baselines"):
        return []
    metric = metric_of(result)
    word = _text(metric.replace("_", " "))
    head = "<th>Network</th>" + "".join(
        f'<th class="number">{name}</th>' for name in (f"Test {word}", f"Validation {word}", "Parameters", "MACs")
    )
    rows = []
    for name, network in {"found": result, **result["baselines"]}.items():
        tested, valid = network.get(f"test_{metric}"), network.get(f"valid_{metric}")
        values = [
            shown(tested, metric, network.get("test_interval")) if tested is not None else "–",
            shown(valid, metric) if valid is not None else "–",
            *(f"{network[field]:,}" if network.get(field) is not None else "–" for field in ("params", "macs")),
        ]
        cells = "".join(f'<td class="number">{_text(value)}</td>' for value in values)
        rows.append(f"<tr><th>{_text(name)}</th>{cells}</tr>")
    verdict = [f"<p>{_text(result['verdict'])}</p>"] if result.get("verdict") else []
    return [*_wide(head, rows), *verdict]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    heads = "".join(f"<th>{_text(name)}</th>" for name in head)
    lines = ["<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row) + "</tr>" for row in rows]
    return _wide(heads, lines)


def _wide(heads: str, rows: list[str]) -> list[str]:
    """A table that scrolls in itself. heads: the cells of the first row. rows: whole rows."""
    return [
        f'<div class="scroll"><table class="wide"><thead><tr>{heads}</tr></thead><tbody>',
        *rows,
        "</tbody></table></div>",
    ]


def _genotype(result: Mapping[str, Any]) -> list[str]:
    parts = []
    if result.get("notation"):
        parts.append(f"<pre>{_text(result['notation'])}</pre>")
    if result.get("genotype"):
        parts.append(f"<details><summary>As JSON</summary><pre>{_text(json.dumps(result['genotype']))}</pre></details>")
    return parts


def _section(title: str, content: list[str]) -> list[str]:
    """A section, or nothing where it has no content."""
    return ["<section>", f"<h2>{_text(title)}</h2>", *content, "</section>"] if content else []


def _pairs(values: Mapping[str, str]) -> list[str]:
    rows = [f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in values.items()]
    return ["<table><tbody>", *rows, "</tbody></table>"] if rows else []


def _figure(folder: Path, title: str, relative: str, caption: str) -> list[str]:
    """A picture, which leads to itself as SVG where that lies beside it."""
    drawn = Path(relative).with_suffix(".svg").as_posix()
    large = drawn if (folder / drawn).is_file() else relative
    return [
        "<figure>",
        f"<h3>{_text(title)}</h3>",
        f'<a href="{_text(quote(large))}"><img src="{_text(quote(relative))}" alt="{_text(title)}" loading="lazy"></a>',
        f"<figcaption>{_text(caption)}</figcaption>",
        "</figure>",
    ]


def metric_of(result: Mapping[str, Any]) -> str:
    """What the networks of a result are judged by: the name of the metric in "test_NAME" and "valid_NAME"."""
    return str(result.get("metric", "accuracy"))


def shown(value: float, metric: str, interval: Sequence[float] | None = None) -> str:
    """A value of a metric as a person reads it, an accuracy in percent, with its interval where there is one."""
    if not metric.endswith("accuracy"):
        return f"{value:.4g}"
    between = f" ({interval[0]:.2%} – {interval[1]:.2%})" if interval else ""
    return f"{value:.2%}{between}"


def _duration(value: Any) -> str:
    """Seconds as a person says them; what is no number as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value) if not isinstance(value, str) else value
    if value < 60:
        return f"{value:.3g} s"
    whole = round(value)
    hours, minutes, seconds = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _label(field: str) -> str:
    return field.removesuffix("_s").removesuffix("_seconds").replace("_", " ")


def _text(value: str) -> str:
    return html.escape(str(value), quote=True)
