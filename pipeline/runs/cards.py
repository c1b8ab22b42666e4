"""Sentences that both cards have, and Markdown for tables.

The model card of a run.

The dataset card of a shard set.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.runs.evaluation_manifest import PROTOCOL_TITLES, EvaluationManifest
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.formatting import describe_samples, pluralize
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.manifest import ShardManifest, TextSource

# Of each layout: whose data lie so, and on what terms its makers give them.
SOURCES = {
    "bu3dfe": ("BU-3DFE", "Binghamton University gives it to researchers who sign its agreement."),
    "bu4dfe": ("BU-4DFE", "Binghamton University gives it to researchers who sign its agreement."),
    "bosphorus": ("the Bosphorus database", "Bogazici University gives it to researchers who sign its agreement."),
    "bp4d": ("BP4D-Spontaneous", "Binghamton University gives it to researchers who sign its agreement."),
    "coma": (
        "CoMA",
        "The Max Planck Society licenses it for research that is not commercial.",
    ),
    "facescape": ("FaceScape", "Nanjing University gives it to researchers who sign its agreement."),
    "ict": ("ICT-FaceKit", "It is under the MIT licence."),
}
TEXT = {
    "label": "of each sample's label: text is supervision here",
    "au": "of action units that people, or the makers of the shapes, have coded: text is supervision here",
    "geometry": "of what the mesh measures: no label is in it",
    "pseudo": "chosen by the model itself among the prompts: no label was read",
    "none": "not there",
}
ETHICS = """\
Faces are personal data, and scans identify people. Keep to what those who were scanned have agreed to, keep the data
where they are safe, and publish no image of a person without leave. An expression is what a face shows: it is not what
anybody feels, means or is, and labels of posed expressions say less still of faces in life. This is made for research
on methods, and not for judging, watching or sorting people; who is not among the subjects, by age, sex, ancestry or
health, may be read worse than those who are."""


def source_of(layout: str) -> str:
    """Whose scans they may be, and on what terms they are had."""
    if layout not in SOURCES:
        return "Where the scans come from, and on what terms, is not known here: say it before you pass anything on."
    name, terms = SOURCES[layout]
    return (
        f"The scans lie as those of {name} do. If they are, images and models of them fall under the terms of that "
        f"dataset: {terms} If they are other scans, their own terms hold."
    )


def prompts_of(text_source: TextSource | str) -> str:
    """Where the text comes from, in words."""
    return f"`{text_source}`, {TEXT.get(text_source, 'of a source that is not known here')}"


def front_matter(**fields: object) -> str:
    """Metadata as YAML between two lines, for hubs."""
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(plain(str(cell)) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Text of data, such as a subject's name, that no reader of Markdown takes for markup."""
    return "".join(f"&#{ord(letter)};" if letter in "|<>`*_[]&\n\r" else letter for letter in text)


MAX_CLASSES = 60


def run_card(run: RunManifest, evaluation: EvaluationManifest | None = None) -> str:
    """The card as Markdown, with the scores of an evaluation where there is one."""
    recipe = run.recipe
    without = f", without {', '.join(recipe['without'])}" if recipe.get("without") else ""
    # Of a file its name alone: where it lay is nobody's business.
    name = Path(str(recipe.get("pretrained") or "")).name
    weights = f"the weights {plain(name)}" if name else "random weights"
    tags = ["3d", "faces", "facial-expression-recognition", "vision-language"]
    return f"""{front_matter(library_name="smile-pipe", pipeline_tag="zero-shot-image-classification", tags=tags)}
# {recipe["name"]} for 3D facial expressions

The recipe `{recipe["name"]}`{without} on the architecture `{recipe["arch"]}`, which began with {weights}: a shared
encoder of {pluralize(len(run.views), "view")} of a face ({", ".join(run.views)}), their fusion, and text.

## What it learned from

{run.training_data_summary()}; `{run.channel}` images; split `{run.split}`.
Prompts were {prompts_of(run.text_source)}. Of {pluralize(len(run.test_subjects), "other subject")} nothing was read.
The shards' own card, beside them, says where the scans come from and on what terms; the model falls under these too.

It tells apart: {", ".join(plain(word_for(name)) for name in run.classes[:MAX_CLASSES])}.

## How good it is

{_scores(evaluation)}
## How to use it

    smile-pipe predict . SCAN...
    smile-pipe predict . SCAN --prompts "a polite smile" --prompts "a skeptical face"
    smile-pipe app .

## Limits

What it was not shown it does not know: other scanners, other people, expressions that are not posed, views and channels
other than its own. Scores on synthetic faces compare methods and say nothing about people. A share is no certainty: how
well the two agree stands in the evaluation's report.

## Use

{ETHICS}

Fingerprint {run.fingerprint}, of shards {run.shards_fingerprint}; {pluralize(run.num_steps, "step")};
format {run.schema_version}.
"""


def _scores(evaluation: EvaluationManifest | None) -> str:
    if evaluation is None:
        return "Not scored yet: `smile-pipe evaluate . --shards SHARDS` does, and writes its figures here.\n"
    rows = [
        (PROTOCOL_TITLES.get(name, name), f"{100 * score.accuracy:.1f}", f"{100 * score.macro_f1:.1f}")
        for name, score in evaluation.protocols.items()
    ]
    samples = describe_samples(evaluation.num_scans, evaluation.num_sequences)
    whom = f"{samples} of {pluralize(evaluation.num_subjects, 'subject')}"
    scored = table(("protocol", "accuracy, %", "macro F1, %"), rows)
    return f"{scored}\nOn {whom}, split `{evaluation.split}`; all of it in `evaluation/report.html`.\n"


MAX_EXPRESSIONS = 60


def shards_card(manifest: ShardManifest, rows: Sequence[IndexRow]) -> str:
    """The card as Markdown; `rows` are those of the index."""
    counts = Counter(row.expression for row in rows)
    shown = [(word_for(name), counts[name]) for name in manifest.expressions[:MAX_EXPRESSIONS]]
    settings, sequences = manifest.settings, manifest.num_sequences
    kinds = describe_samples(manifest.num_samples - sequences, sequences)
    channels = ", ".join(manifest.channels)
    return f"""{front_matter(pretty_name="Multiview renderings of 3D faces", tags=["webdataset", "3d", "faces"])}
# Multiview renderings of 3D faces

{kinds} of {pluralize(manifest.num_subjects, "subject")}, each seen from {pluralize(len(manifest.views), "view")}
({", ".join(manifest.views)}) in the channels {channels}, {manifest.image_size} pixels a side, drawn by
{manifest.renderer}. {pluralize(manifest.num_failures, "sample")} could not be read or drawn;
`failures.parquet` says why.

## From where

{source_of(manifest.layout)}

## What of

{table(("expression", "samples"), shown)}
Labels are those of the source. Prompts are {prompts_of(manifest.text_source)}.

## How to read it

Shards are tar files in WebDataset's form: `KEY.json` (labels, provenance, cameras), `KEY.txt` (the prompt), and
`KEY.VIEW.CHANNEL.jpg` or `.png` for each view and channel. `index.parquet` has a row a sample. Any WebDataset reader
can read them; nothing in them is code.

    smile-pipe inspect . --preview views.png
    smile-pipe train --shards . --out run/

## Splits

None is made here. Training divides by subject, and no subject is on both sides; keep to that.

## Limits

Images show the surface as it was scanned, with the holes and the noise of the scan, in one light of the renderer's. Of
a face they show what the views show. {_of_sequences(manifest)}

## Use

{ETHICS}

Fingerprint {manifest.fingerprint}; format {manifest.schema_version}; images of version {settings.get("data_version")}.
"""


def _of_sequences(manifest: ShardManifest) -> str:
    if not manifest.num_sequences:
        return "They show moments, and nothing that moves."
    about = manifest.settings.get("sequences", {})
    return f"Of a sequence there are the frames that were chosen ({about.get('sampling')}), and not all that moves."
