"""Questions that are asked about the embeddings of an evaluation, next to the protocols that predict classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from smile_pipe.model.config import has_classifier
from smile_pipe.pipeline.data.dataset import FaceDataset
from smile_pipe.pipeline.evaluate.analogy import analogy
from smile_pipe.pipeline.evaluate.answers import Answers, examples_png
from smile_pipe.pipeline.evaluate.caption_check import caption_check
from smile_pipe.pipeline.evaluate.few_labels import Finetune, few_labels
from smile_pipe.pipeline.evaluate.fewshot import fewshot
from smile_pipe.pipeline.evaluate.missing_views import missing_views
from smile_pipe.pipeline.evaluate.printed_word import printed_word
from smile_pipe.pipeline.evaluate.protocols import ProtocolPredictor
from smile_pipe.pipeline.reports.plots import accuracy_lines
from smile_pipe.pipeline.runs.question_scores import fewshot_examples, question_title
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.manifest import ShardManifest

AXES = {"missing-views": "number of views", "few-labels": "percentage of the subjects with labels"}
"""Labels of the axes of the plots, by question."""


@dataclass(frozen=True)
class QuestionData:
    """What questions are answered from.

    Attributes:
        predictor: embeddings of the samples, and the model.
        dataset: reader of the scored samples.
        batch_size: number of samples embedded at a time.
        finetune: fine-tunes on some of the samples to fit on; None if fine-tuning was not requested.
    """

    predictor: ProtocolPredictor
    dataset: FaceDataset
    batch_size: int
    finetune: Finetune | None = None


def has_text(run: RunManifest, shards: ShardManifest, classes: Sequence[str]) -> bool:
    """Whether a run learned from text and the shards have prompts of all classes."""
    return (
        run.text_source != "none"
        and not has_classifier(run.recipe["name"])
        and all(shards.prompts.get(name) for name in classes)
    )


def ask(
    questions: Sequence[str], data: QuestionData, on_question: Callable[[str], None] = lambda name: None
) -> dict[str, Answers]:
    """Ask questions, each once, in their order.

    Args:
        questions: names of questions.
        data: what they are answered from.
        on_question: called with each name before it is asked.

    Raises:
        UsageError: the samples do not allow a question.
    """
    answers = {}
    for question in dict.fromkeys(questions):
        on_question(question)
        answers[question] = _ask(question, data)
    return answers


def question_pictures(answers: Mapping[str, Answers], data: QuestionData) -> dict[str, bytes]:
    """Draw a picture of each question that has something to see: examples as PNG, or a plot as SVG."""
    pictures = {}
    rows = data.predictor.data.test_rows
    for question, given in answers.items():
        if given.examples:
            title = f"{question_title(question)}: right answers, then wrong ones"
            pictures[question] = examples_png(title, data.dataset.shards, rows, given.examples)
        elif question in AXES:
            pictures[question] = accuracy_lines(given.score.parts, AXES[question], is_log=question == "few-labels")
    return pictures


def _ask(question: str, data: QuestionData) -> Answers:
    predictor = data.predictor
    embedded, seed = predictor.data, predictor.seed
    x, labels = embedded.x[embedded.num_train :], embedded.test_labels
    if question == "analogy":
        return analogy(x, labels, seed)
    if question == "missing-views":
        return missing_views(predictor, data.dataset.shards.manifest.views, seed)
    if question == "few-labels":
        return few_labels(embedded, seed, data.finetune)
    if question == "printed-word":
        return printed_word(predictor, data.dataset, data.batch_size, seed)
    if question == "caption-check":
        captions = [data.dataset.shards.read(row).record.caption for row in embedded.test_rows]
        return caption_check(x, captions, labels.subjects, labels.levels, predictor.model.embed_prompts, seed)
    num_examples = fewshot_examples(question)
    assert num_examples is not None, question
    return fewshot(embedded, predictor.prompts, num_examples, seed)
