"""The report of an evaluation: one HTML page that holds everything it shows.

Goes in: the manifest, figures, and facts of the run. Comes out: HTML. Promised: it asks for nothing outside itself and
runs no script; it reads on a phone, in light and dark; all text from outside is escaped.
"""

import base64
from collections.abc import Iterable, Mapping
from html import escape

from pipeline.evaluation.manifest import PROTOCOL_TITLES, EvaluationManifest
from pipeline.expressions import EXPRESSIONS
from pipeline.training.sequences import in_words

_ABOUT = {
    "zero-shot": "No classifier: a face is given the expression whose prompts lie nearest to it in the joint space.",
    "classifier": "The classifier that was trained with the embeddings, on labels: the nearest of its learned anchors.",
    "knn": "A vote of the most similar faces of other subjects, by cosine.",
    "probe": "Logistic regression on the frozen embeddings, fitted on other subjects.",
}
_TEXT_SOURCES = {
    "label": (
        "<strong>These prompts are supervision.</strong> The text that the model learned from was derived from the "
        "expression labels, so the model has seen the labels of its training subjects, in words. None of these figures "
        "is the result of unsupervised learning."
    ),
    "geometry": (
        "<strong>No label wrote these prompts.</strong> The text that the model learned from tells what was measured "
        "on each face's landmarks. Where a scan was measured against the subject's neutral one, the label told which "
        "that is."
    ),
    "au": (
        "<strong>These prompts are supervision.</strong> The text that the model learned from was written from coded "
        "action units, which tell what each face does. None of these figures is the result of unsupervised learning."
    ),
    "pseudo": (
        "<strong>No label chose these prompts.</strong> The text that the model learned from are the prompts of "
        "clusters that it found itself. Which cluster has which name is a guess of its own: zero-shot figures tell how "
        "good that guess was, the others do not depend on it."
    ),
    "none": (
        "<strong>No text took part in training.</strong> The model saw neither prompts nor labels; only the "
        "classifiers of the protocols did."
    ),
}
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
.card p { margin: .35rem 0 0; color: var(--faint); font-size: .875rem; line-height: 1.5; }
.table { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .925rem; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .9rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--faint); font-weight: 500; font-size: .85rem; }
th:first-child { text-align: left; font-weight: 500; }
td.share { background: rgb(var(--tint) / calc(var(--share) * .22)); }
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


def render_report(
    manifest: EvaluationManifest,
    figures: Mapping[str, bytes],
    contact_sheet: bytes | None,
    run_facts: Mapping[str, str],
) -> str:
    """The page.

    Args:
        manifest: the scores.
        figures: SVG, PNG or JPEG by caption, in the order that they are shown in.
        contact_sheet: an image of some of the faces (SVG, PNG or JPEG), if there is one.
        run_facts: what else is worth knowing of the run and its data, by name.
    """
    headline = _headline(manifest)
    sections = [
        f'<p class="kicker">{escape(manifest.recipe)} &middot; evaluation</p>\n<h1>{escape(headline)}</h1>',
        f"<p>{escape(_conditions(manifest))}</p>",
        f'<p class="note">{_TEXT_SOURCES[manifest.text_source]}</p>',
        *(f'<p class="note">{escape(note[:1].upper() + note[1:])}.</p>' for note in manifest.notes),
        f'<div class="cards">{"".join(_cards(manifest))}</div>',
        f"<h2>Scores by expression and by intensity</h2>\n{_scores(manifest)}",
    ]
    if figures:
        plots = "".join(_picture("plot", caption, content) for caption, content in figures.items())
        sections.append(f'<h2>Figures</h2>\n<div class="plots">{plots}</div>')
    if contact_sheet is not None:
        sections.append(f"<h2>Faces</h2>\n{_picture('sheet', 'Some of the faces that were scored', contact_sheet)}")
    sections.append(f"<h2>Facts</h2>\n{_facts(manifest, run_facts)}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(manifest.recipe)}: evaluation</title>\n<style>{_STYLE}</style>\n</head>\n"
        "<body>\n<main>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def _headline(manifest: EvaluationManifest) -> str:
    kinds = ((manifest.num_scans, "face scan"), (manifest.num_sequences, "sequence"))
    faces = " and ".join(_count(number, kind) for number, kind in kinds if number)
    whose = f"{faces} of {_count(manifest.num_subjects, 'subject')}"
    unseen = "" if manifest.split == "all" else " that training never saw"
    ways = [_title(name) for name in manifest.protocols]
    listed = ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} and {ways[-1]}"
    return f"{manifest.recipe} naming {_count(len(manifest.classes), 'expression')} on {whose}{unseen}, by {listed}"


def _conditions(manifest: EvaluationManifest) -> str:
    if manifest.split == "all":
        scope = (
            "All samples of these shards were scored, whether or not the model was trained on their subjects; "
            "classifiers were fitted in folds, each on other subjects than it was scored on."
        )
    else:
        scope = (
            f"The subjects are the test side of the split {manifest.split}: neither the model nor a classifier has "
            "seen any of them."
        )
    guessing = f"guessing would be right for about {_percent(1 / len(manifest.classes))}"
    if manifest.where is not None:
        scope += f" Only samples for which this holds were fitted on and scored: {manifest.where}."
    return " ".join([scope, *_seen(manifest), f"The figures are accuracies; {guessing}."])


def _seen(manifest: EvaluationManifest) -> Iterable[str]:
    if manifest.num_sequences:
        frames = f" ({_count(manifest.num_frames, 'frame')} in all)" if manifest.num_frames else ""
        yield f"What was read: {in_words(manifest.temporal, manifest.max_frames)}{frames}."


def _cards(manifest: EvaluationManifest) -> Iterable[str]:
    for name, score in manifest.protocols.items():
        yield (
            f'<section class="card"><h3>{_heading(name)}</h3><p class="figure">{_percent(score.accuracy)}</p>'
            f"<p>accuracy &middot; macro F1 {_percent(score.macro_f1)}</p><p>{_ABOUT.get(name, '')}</p></section>"
        )


def _scores(manifest: EvaluationManifest) -> str:
    scores = manifest.protocols.values()
    levels = sorted({level for score in scores for level in score.per_level}, key=lambda level: (len(level), level))
    rows: list[tuple[str, list[float | None]]]
    rows = [("accuracy", [score.accuracy for score in scores]), ("macro F1", [score.macro_f1 for score in scores])]
    rows += [(f"{_word(c)}, recall", [score.per_class.get(c) for score in scores]) for c in manifest.classes]
    rows += [(f"level {level}, accuracy", [score.per_level.get(level) for score in scores]) for level in levels]
    head = "".join(f'<th scope="col">{_heading(name)}</th>' for name in manifest.protocols)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(_share(value) for value in values)}</tr>'
        for name, values in rows
    )
    return f'<div class="table"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _share(value: float | None) -> str:
    if value is None:
        return "<td>&ndash;</td>"
    return f'<td class="share" style="--share: {value:.3f}">{_percent(value)}</td>'


def _facts(manifest: EvaluationManifest, run_facts: Mapping[str, str]) -> str:
    # What the manifest knows comes last, so that no fact of the caller's takes its place.
    facts = {
        **run_facts,
        "scored split": manifest.split,
        "text source": manifest.text_source,
        "scored": f"{_count(manifest.num_scans, 'scan')}, {_count(manifest.num_sequences, 'sequence')}",
        "read of sequences": in_words(manifest.temporal, manifest.max_frames),
        "expressions": ", ".join(_word(c) for c in manifest.classes),
        "run fingerprint": manifest.run_fingerprint,
        "shards fingerprint": manifest.shards_fingerprint,
        "evaluation fingerprint": manifest.fingerprint,
    }
    rows = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in facts.items())
    return f'<div class="table facts"><table><tbody>{rows}</tbody></table></div>'


def _picture(kind: str, caption: str, content: bytes) -> str:
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


def _title(protocol: str) -> str:
    return PROTOCOL_TITLES.get(protocol, protocol)


def _heading(protocol: str) -> str:
    title = _title(protocol)
    return escape(title[:1].upper() + title[1:])


def _word(expression: str) -> str:
    return EXPRESSIONS.get(expression, expression)


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
