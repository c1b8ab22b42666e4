"""README cards: the model card of a run and the dataset card of a shard set, as Markdown with metadata for hubs.

A card contains what the manifest contains, and nothing about the machine that it was written on.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from huggingface_hub import CardData, DatasetCardData, ModelCardData

from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.runs.evaluation_manifest import PROTOCOL_TITLES, EvaluationManifest, single_view
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.formatting import describe_samples, pluralize
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.manifest import ShardManifest, TextSource

# By dataset layout: name of the dataset, and its terms of use.
SOURCES = {
    "bu3dfe": ("BU-3DFE", "Binghamton University gives it to researchers who sign its agreement."),
    "bu4dfe": ("BU-4DFE", "Binghamton University gives it to researchers who sign its agreement."),
    "bosphorus": ("the Bosphorus database", "Bogazici University gives it to researchers who sign its agreement."),
    "bp4d": ("BP4D-Spontaneous", "Binghamton University gives it to researchers who sign its agreement."),
    "coma": (
        "CoMA",
        "The Max Planck Society licenses it for non-commercial research.",
    ),
    "facescape": ("FaceScape", "Nanjing University gives it to researchers who sign its agreement."),
    "ict": ("ICT-FaceKit", "It is under the MIT licence."),
}
TEXT_SOURCES = {
    "label": "derived from each sample's label: text is supervision here",
    "au": "derived from action units, coded by people or by the authors of the shapes: text is supervision here",
    "geometry": "derived from measurements on the mesh: it contains no label",
    "knowledge": "captions of each sample, and prompts of the expression that published prototypes of action units "
    "give for the caption: no label of an expression was read",
    "pseudo": "chosen by the model itself among the prompts: no label was read",
    "none": "not used",
}
ETHICS = """\
Faces are personal data, and scans identify people. Respect the consent of the people who were scanned, store the data
safely, and publish no image of a person without permission. An expression is what a face shows, not what a person
feels, means or is; labels of posed expressions are even less valid for faces in daily life. This is for research on
methods, not for judging, monitoring or sorting people. Accuracy may be lower for groups (age, sex, ancestry, health)
that are not among the subjects."""
MODEL_TAGS = ("3d", "faces", "facial-expression-recognition", "vision-language")
MAX_CLASSES = 60


def run_card(run: RunManifest, evaluation: EvaluationManifest | None = None) -> str:
    """Return the model card of a run as Markdown, with scores if there is an evaluation."""
    recipe = run.recipe
    without = f", without {', '.join(recipe['without'])}" if recipe.get("without") else ""
    # The name of the file only: its directory may be private.
    file_name = Path(str(recipe.get("pretrained") or "")).name
    weights = f"the weights {escape_markdown(file_name)}" if file_name else "random weights"
    joined = "; of each channel, with joined embeddings" if len(run.channels) > 1 else ""
    data = ModelCardData(library_name="smile-pipe", pipeline_tag="zero-shot-image-classification", tags=[*MODEL_TAGS])
    return f"""{front_matter(data)}
# {recipe["name"]} for 3D facial expressions

The recipe `{recipe["name"]}`{without} with the architecture `{recipe["arch"]}`, initialised with {weights}: a shared
encoder of {pluralize(len(run.views), "view")} of a face ({", ".join(run.views)}), their fusion, and a text
encoder{joined}.

## Training data

{run.training_data_summary()}; `{"`, `".join(run.channels)}` images; split `{run.split}`.
Prompts: {describe_text_source(run.text_source)}. Held-out test data: {pluralize(len(run.test_subjects), "subject")}.
The card of the shards states the source and the terms of the scans; the terms apply to the model too.

Classes: {", ".join(escape_markdown(word_for(name)) for name in run.classes[:MAX_CLASSES])}.

## Scores

{_scores(evaluation)}
## How to use it

    smile-pipe predict . SCAN...
    smile-pipe predict . SCAN --prompts "a polite smile" --prompts "a skeptical face"
    smile-pipe app .

## Limits

The model is not tested on other scanners, other groups of people, spontaneous expressions, or other views and channels.
Scores on synthetic faces compare methods; they are not valid for real people. A probability is not the accuracy: the
report of the evaluation shows how well the two agree.

## Use

{ETHICS}

Fingerprint {run.fingerprint}, of shards {run.shards_fingerprint}; {pluralize(run.num_steps, "step")};
format {run.schema_version}.
"""


def shards_card(manifest: ShardManifest, rows: Iterable[SampleRow]) -> str:
    """Return the dataset card of a shard set as Markdown; `rows` are those of its index."""
    counts = Counter(row.expression for row in rows)
    shown = [(word_for(name), counts[name]) for name in manifest.expressions[:MAX_CLASSES]]
    settings, sequences = manifest.settings, manifest.num_sequences
    kinds = describe_samples(manifest.num_samples - sequences, sequences)
    channels = ", ".join(manifest.channels)
    # Without `configs`, `datasets` could take failures.parquet for the data.
    data = DatasetCardData(
        pretty_name="Multiview renderings of 3D faces",
        tags=["webdataset", "3d", "faces"],
        configs=[{"config_name": "default", "data_files": "shards/*.tar"}],
    )
    return f"""{front_matter(data)}
# Multiview renderings of 3D faces

{kinds} of {pluralize(manifest.num_subjects, "subject")}, each seen from {pluralize(len(manifest.views), "view")}
({", ".join(manifest.views)}) in the channels {channels}, {manifest.image_size} pixels a side, rendered by
{manifest.renderer}. {pluralize(manifest.num_failures, "sample")} could not be read or rendered;
`failures.parquet` has the reasons.

## Source

{describe_source(manifest.layout)}

## Contents

{markdown_table(("expression", "samples"), shown)}
Labels are those of the source. Prompts: {describe_text_source(manifest.text_source)}.

## How to read it

Shards are tar files in WebDataset format: `KEY.json` (labels, provenance, cameras), `KEY.txt` (the prompt), and
`KEY.VIEW.CHANNEL.jpg` or `.png` for each view and channel. `index.parquet` has one row per sample. Any WebDataset
reader can read them; they contain no code. `datasets.load_dataset("DIRECTORY")` reads this
directory if all samples have the same number of images.

    smile-pipe inspect . --preview views.png
    smile-pipe train --shards . --out run/

## Splits

The shards have no fixed split. Training splits by subject: no subject is in two parts. Other users should do the same.

## Limits

Images show the surface as it was scanned, with the holes and the noise of the scan, under one light of the renderer.
They show only what the views show. {_sequence_limits(manifest)}

## Use

{ETHICS}

Fingerprint {manifest.fingerprint}; format {manifest.schema_version}; images of version {settings.get("data_version")}.
"""


def describe_source(layout: str) -> str:
    """Describe the dataset of a layout and its terms of use."""
    if layout not in SOURCES:
        return "The source of the scans and its terms are not known here: add both before you share the data."
    name, terms = SOURCES[layout]
    return (
        f"The folder layout of the scans is that of {name}. If they are from it, images and models of them fall under "
        f"the terms of that dataset: {terms} Scans from elsewhere have their own terms."
    )


def describe_text_source(text_source: TextSource | str) -> str:
    """Describe where text comes from, and whether it is supervision."""
    return f"`{text_source}`, {TEXT_SOURCES.get(text_source, 'a source that is not known here')}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(escape_markdown(str(cell)) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """Escape text from data, such as a subject's name, so that it is not markup."""
    return "".join(f"&#{ord(letter)};" if letter in "|<>`*_[]&\n\r" else letter for letter in text)


def front_matter(data: CardData) -> str:
    """Return metadata as YAML between two lines of dashes, as hubs read it."""
    return f"---\n{data.to_yaml()}\n---\n"


def _scores(evaluation: EvaluationManifest | None) -> str:
    if evaluation is None:
        return "Not evaluated yet: `smile-pipe evaluate . --shards SHARDS` adds the scores here.\n"
    rows = [
        (PROTOCOL_TITLES.get(name, name), f"{100 * score.accuracy:.1f}", f"{100 * score.macro_f1:.1f}")
        for name, score in evaluation.protocols.items()
    ]
    samples = describe_samples(evaluation.num_scans, evaluation.num_sequences)
    scored = f"{samples} of {pluralize(evaluation.num_subjects, 'subject')}"
    scored += f", from the {view}" if (view := single_view(evaluation.views)) else ""
    scores = markdown_table(("protocol", "accuracy, %", "macro F1, %"), rows)
    rig = f" Trained on another rig: {'; '.join(evaluation.rig_differences)}." if evaluation.rig_differences else ""
    return f"{scores}\nOn {scored}, split `{evaluation.split}`; full report in `evaluation/report.html`.{rig}\n"


def _sequence_limits(manifest: ShardManifest) -> str:
    if not manifest.num_sequences:
        return "They show single moments, without motion."
    sequences = manifest.settings.get("sequences", {})
    return f"Of a sequence they contain the sampled frames ({sequences.get('sampling')}), not the whole motion."
