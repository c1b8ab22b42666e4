"""The model card of a run."""

from pathlib import Path

from pipeline.cards.words import ETHICS, front_matter, plain, prompts_of, table
from pipeline.evaluation.manifest import PROTOCOL_TITLES, EvaluationManifest
from pipeline.expressions import word_for
from pipeline.training.manifest import RunManifest
from shards.words import counted, samples_in_words

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
encoder of {counted(len(run.views), "view")} of a face ({", ".join(run.views)}), their fusion, and text.

## What it learned from

{run.learned_from()}; `{run.channel}` images; split `{run.split}`.
Prompts were {prompts_of(run.text_source)}. Of {counted(len(run.test_subjects), "other subject")} nothing was read.
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

Fingerprint {run.fingerprint}, of shards {run.shards_fingerprint}; {counted(run.num_steps, "step")};
format {run.schema_version}.
"""


def _scores(evaluation: EvaluationManifest | None) -> str:
    if evaluation is None:
        return "Not scored yet: `smile-pipe evaluate . --shards SHARDS` does, and writes its figures here.\n"
    rows = [
        (PROTOCOL_TITLES.get(name, name), f"{100 * score.accuracy:.1f}", f"{100 * score.macro_f1:.1f}")
        for name, score in evaluation.protocols.items()
    ]
    samples = samples_in_words(evaluation.num_scans, evaluation.num_sequences)
    whom = f"{samples} of {counted(evaluation.num_subjects, 'subject')}"
    scored = table(("protocol", "accuracy, %", "macro F1, %"), rows)
    return f"{scored}\nOn {whom}, split `{evaluation.split}`; all of it in `evaluation/report.html`.\n"
