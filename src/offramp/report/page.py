"""One self-contained HTML page: tables and curves, no network, no scripts."""

import html
from collections.abc import Sequence
from pathlib import Path

from offramp.report.curves import curves_svg
from offramp.report.evaluation import BudgetReport, DeadlineReport, Evaluation
from offramp.report.tables import Table, budget_table, deadline_table, exit_table
from offramp_runtime.budget import Outcome
from offramp_runtime.costs import Costs
from offramp_runtime.files import write_text

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ink: #222; --paper: #fff; --soft: #667; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ea; --paper: #17181c; --soft: #9aa; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: var(--ink); background: var(--paper); }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
p { color: var(--soft) } figure { margin: 1rem 0; overflow-x: auto; background: #fff; border-radius: 8px; padding: .5rem }
svg { max-width: 100%; height: auto } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .9rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
"""


def write_page(
    path: Path,
    title: str,
    note: str,
    evaluation: Evaluation,
    costs: Costs,
    curve: Sequence[Outcome],
    budgets: Sequence[BudgetReport],
    deadlines: Sequence[DeadlineReport],
) -> None:
    """Write the page.

    Args:
        path: HTML file.
        title: heading.
        note: one paragraph on how the figures were obtained.
        evaluation: per exit.
        costs: what the curve's mean costs are in.
        curve: accuracy over mean cost under budgets; may be empty.
        budgets: budgets really spent.
        deadlines: deadlines really kept.
    """
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(note)}</p>",
        f"<h2>Accuracy against cost</h2><figure>{curves_svg(evaluation, curve, budgets)}</figure>",
        "<h2>Anytime: every exit</h2>" + _table(exit_table(evaluation, costs)),
    ]
    if budgets:
        parts.append("<h2>Budgeted: easy images leave early</h2>" + _table(budget_table(budgets)))
    if deadlines:
        parts.append("<h2>Deadlines: one image a call</h2>" + _table(deadline_table(deadlines)))
    write_text(
        path,
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n",
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
