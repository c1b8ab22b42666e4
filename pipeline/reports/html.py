"""HTML pages of reports and their parts: sections, tables, figures.

A page is self-contained: it loads nothing from outside and runs no script. It works on phones, in light and dark mode.
Text is escaped here, except for the sections of `html_page`, which are HTML.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from smile_pipe.model.config import RECIPES
from smile_pipe.pipeline.reports.formatting import format_interval, format_percent
from smile_pipe.pipeline.runs.evaluation_manifest import Interval

Cell = str
_EMPTY_CELL: Cell = "<td>&ndash;</td>"
_TEXT_SOURCE_NOTES = {
    "label": (
        "<strong>These prompts are supervision.</strong> The training text was derived from the expression labels, so "
        "the model has seen the labels of its training subjects as text. None of these scores is a result of "
        "unsupervised learning."
    ),
    "geometry": (
        "<strong>No label wrote these prompts.</strong> The training text describes measurements on each face's "
        "landmarks. Where a scan was measured relative to the subject's neutral scan, the label selected the neutral "
        "scan."
    ),
    "au": (
        "<strong>These prompts are supervision.</strong> The training text was derived from coded action units, which "
        "describe the movements of each face. None of these scores is a result of unsupervised learning."
    ),
    "pseudo": (
        "<strong>No label chose these prompts.</strong> The training text consists of prompts that the model assigned "
        "to clusters of its own. The name of each cluster is a guess of the model: zero-shot scores measure how good "
        "that guess was, the other scores do not depend on it."
    ),
    "none": (
        "<strong>No text took part in training.</strong> The model saw neither prompts nor labels; only the "
        "classifiers of the protocols used labels."
    ),
}
_SUPERVISED_NOTE = (
    "<strong>This is supervised learning.</strong> The model learned the expression labels of its training subjects as "
    "classes; no text took part."
)
_STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfa; --card: #ffffff; --ink: #24272d; --faint: #686d76; --line: #e6e6e3;
  --accent: #2f6fb0; --tint: 47 111 176; --note: #fdf6e7; --note-line: #e0a83c; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #15171b; --card: #1c1f24; --ink: #e4e6ea; --faint: #9aa0aa; --line: #2e3239;
    --accent: #7fb2e5; --tint: 127 178 229; --note: #2a2417; --note-line: #b3862f; }
  .plot img { filter: invert(1) hue-rotate(180deg) brightness(1.15); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
.kicker { margin: 0 0 .5rem; color: var(--faint); font-size: .85rem; letter-spacing: .04em; }
h1 { margin: 0 0 1.25rem; max-width: 46rem; font-size: clamp(1.35rem, 1.1rem + 1.2vw, 1.8rem); line-height: 1.35;
  font-weight: 500; text-wrap: pretty; }
h2 { margin: 3rem 0 1rem; font-size: 1.15rem; font-weight: 600; }
p { max-width: 46rem; }
.note { margin: 1.5rem 0 0; padding: .85rem 1.1rem; max-width: 46rem; background: var(--note);
  border-left: 3px solid var(--note-line); border-radius: 0 6px 6px 0; font-size: .95rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; margin-top: 2rem; }
.card, .plot, .sheet, .table { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.card { padding: 1.1rem 1.25rem; }
.card h3 { margin: 0; font-size: .95rem; font-weight: 600; }
.card .figure { margin: .15rem 0 0; font-size: 2.4rem; line-height: 1.2; font-weight: 600; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.card .figure small { color: var(--faint); font-size: .95rem; font-weight: 400; }
.card p { margin: .35rem 0 0; color: var(--faint); font-size: .875rem; line-height: 1.5; }
.table { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .925rem; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .9rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--faint); font-weight: 500; font-size: .85rem; }
th:first-child { text-align: left; font-weight: 500; }
td.share { background: rgb(var(--tint) / calc(var(--share) * .22)); }
.ends { white-space: nowrap; }
td .ends { color: var(--faint); font-size: .85em; }
td.mark { color: var(--accent); }
.table + .table { margin-top: 1rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem;
  align-items: start; }
figure { margin: 0; padding: 1rem 1.1rem 1.1rem; }
figcaption { margin-bottom: .6rem; font-size: .925rem; font-weight: 500; }
figure img { display: block; width: 100%; height: auto; }
.sheet img { border-radius: 6px; }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.facts th { width: 14rem; color: var(--faint); }
@media (max-width: 40rem) {
  main { padding-top: 1.75rem; }
  th, td { padding: .45rem .6rem; }
  thead th { white-space: normal; }
  .facts th { width: 8rem; white-space: normal; }
}
"""


def supervision_note(recipe: str, text_source: str) -> str:
    """Return HTML on the supervision of a run: labels or text, and the source of the text."""
    known = RECIPES.get(recipe)
    return _SUPERVISED_NOTE if known and known.system == "Supervised" else _TEXT_SOURCE_NOTES[text_source]


def html_page(title: str, sections: Iterable[str]) -> str:
    """Return a page.

    Args:
        title: title of the window, as text.
        sections: contents, as HTML.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        "<body>\n<main>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def plots_section(figures: Mapping[str, bytes]) -> str:
    """Return a section of figures (SVG, PNG or JPEG) by caption."""
    plots = "".join(figure_html("plot", caption, content) for caption, content in figures.items())
    return f'<h2>Figures</h2>\n<div class="plots">{plots}</div>'


def facts_table(facts: Mapping[str, str]) -> str:
    """Return a table of facts by name."""
    rows = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in facts.items())
    return f'<div class="table facts"><table><tbody>{rows}</tbody></table></div>'


def share_cell(share: float | None, interval: Interval | None = None) -> Cell:
    """Return a table cell with a share in percent and its interval; the tint shows the value. None gives a dash."""
    if share is None:
        return _EMPTY_CELL
    ends = f' <span class="ends">{format_interval(interval)}</span>' if interval else ""
    return f'<td class="share" style="--share: {share:.3f}">{format_percent(share)}{ends}</td>'


def table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[Cell]]]) -> str:
    """Return a table.

    Args:
        head: column names, as text; the first is that of the row names.
        rows: name of the row, as text, and its cells, as HTML.
    """
    first, *others = (escape(name) for name in head)
    columns = f"<th>{first}</th>" + "".join(f'<th scope="col">{name}</th>' for name in others)
    body = "".join(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>' for name, cells in rows)
    return f'<div class="table"><table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>'


def figure_html(kind: str, caption: str, content: bytes) -> str:
    """Return an image (SVG, PNG or JPEG) with a caption; `kind` is "plot" or "sheet"."""
    data = base64.b64encode(content).decode()
    text = escape(caption)
    return (
        f'<figure class="{kind}"><figcaption>{text}</figcaption>'
        f'<img alt="{text}" src="data:{_media_type(content)};base64,{data}"></figure>'
    )


def _media_type(content: bytes) -> str:
    if content.startswith(b"\x89PNG"):
        return "image/png"
    return "image/jpeg" if content.startswith(b"\xff\xd8") else "image/svg+xml"
