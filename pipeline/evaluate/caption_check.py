"""Caption check: does the embedding of a face know which phrase of a caption is false?

In the caption that was measured on a face, one phrase is exchanged for another one that the face measurably lacks: its
score is under half of its threshold (`smile_pipe.pipeline.captions.exchanges`).

- choice: the true caption is nearer to the face than the changed one;
- locate: of the m phrases of the changed caption, the false one is that without which the caption is nearest;
- adverb: "slightly" is exchanged for "strongly" or the reverse, and the true caption is nearer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from smile_pipe.pipeline.captions.action_units import MODERATE, STRONG, join_phrases
from smile_pipe.pipeline.captions.exchanges import (
    caption_text,
    exchange,
    lacking_features,
    named_features,
    phrases_of,
)
from smile_pipe.pipeline.captions.geometry import FEATURES, Feature
from smile_pipe.pipeline.classifiers.knn import Features, unit_vectors
from smile_pipe.pipeline.evaluate.answers import Answers, Example, score_part, select_examples
from smile_pipe.pipeline.runs.question_scores import QuestionPart, QuestionScore
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.sample import Caption

MAX_QUESTIONS = 2000
"""Maximum number of exchanged phrases, and of exchanged adverbs; of more, some are drawn."""

EmbedText = Callable[[Sequence[str]], Features]
_BATCH = 256
_REGIONS = {
    "brows": ("inner_brow_height", "outer_brow_height", "inner_brow_gap"),
    "eyes": ("eye_opening", "lower_lid_height"),
    "nose": ("nostril_lift",),
}
_WEAK, _MIDDLE, _FULL = MODERATE / 2, (MODERATE + STRONG) / 2, STRONG
_ADVERBS = {_WEAK: "slightly", _MIDDLE: "without adverb", _FULL: "strongly"}


@dataclass(frozen=True)
class Exchange:
    """A caption with one false phrase.

    Attributes:
        face: number of the scored sample.
        true: the caption.
        phrases: phrases of the changed caption, m.
        false_at: index of the false phrase.
        replaced: the feature that is no longer named.
        strength: its adverb, as a strength.
    """

    face: int
    true: str
    phrases: tuple[str, ...]
    false_at: int
    replaced: Feature
    strength: float

    @property
    def text(self) -> str:
        """The changed caption."""
        return join_phrases(self.phrases)

    @property
    def without_each(self) -> list[str]:
        """The changed caption without each of its phrases in turn."""
        return [join_phrases((*self.phrases[:i], *self.phrases[i + 1 :])) for i in range(len(self.phrases))]


def caption_check(
    faces: Features,
    captions: Sequence[Caption | None],
    subjects: Sequence[str],
    levels: Sequence[int | None],
    embed_text: EmbedText,
    seed: int,
) -> Answers:
    """Ask which captions and phrases are true.

    Args:
        faces: embeddings of the scored samples, [N, D].
        captions: the caption of each sample, with its measures; None or of another source for no question.
        subjects: subject of each sample, [N].
        levels: intensity level of each sample, [N].
        embed_text: embeds texts: [T, D].
        seed: random seed of the exchanged phrases and of the intervals.

    Raises:
        UsageError: no sample has a caption with a phrase that can be exchanged.
    """
    exchanges, adverbs = draw_exchanges(captions, seed), draw_adverb_exchanges(captions, seed)
    if not exchanges:
        raise UsageError(
            "no scored sample has a caption that was measured on its mesh; render with `text=geometry`",
            field="protocol",
            value="caption-check",
        )
    space = CaptionSpace(faces, embed_text, [*exchanges, *adverbs])
    chosen = np.array([space.prefers_true(each) for each in exchanges])
    # A caption may be nearer to every face, as captions of common phrases are.
    mean_face = [space.prefers_true(each, of_mean_face=True) for each in exchanges]
    located = np.array([space.locate(each) == each.false_at for each in exchanges])
    several = np.array([len(each.phrases) > 1 for each in exchanges])
    of_subject = np.array([subjects[each.face] for each in exchanges])
    chances = np.array([1 / len(each.phrases) for each in exchanges])
    parts = list[QuestionPart]()
    for name, mask in _groups(exchanges, levels).items():
        baseline = np.array(mean_face)[mask]
        parts.append(score_part("choice", name, chosen[mask], 0.5, of_subject[mask], seed, baseline))
        if (more := mask & several).any():
            parts.append(score_part("locate", name, located[more], chances[more], of_subject[more], seed))
    parts.sort(key=lambda part: part.group)
    if adverbs:
        hits, whose = [space.prefers_true(each) for each in adverbs], [subjects[each.face] for each in adverbs]
        simple = [space.prefers_true(each, of_mean_face=True) for each in adverbs]
        parts.append(score_part("choice of the adverb", "all", hits, 0.5, whose, seed, simple))
    shown = select_examples(chosen, seed)
    examples = tuple(_example(exchanges[n], bool(chosen[n])) for n in shown)
    return Answers(QuestionScore(parts=tuple(parts), baseline="the mean face in place of each face"), examples)


class CaptionSpace:
    """Cosines of faces and captions; each text is embedded once."""

    def __init__(self, faces: Features, embed_text: EmbedText, exchanges: Sequence[Exchange]) -> None:
        """Embed all texts.

        Args:
            faces: embeddings of the scored samples, [N, D].
            embed_text: embeds texts: [T, D].
            exchanges: the questions.
        """
        texts = [*dict.fromkeys(t for each in exchanges for t in (each.true, each.text, *each.without_each))]
        batches = [embed_text(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]
        self._text = dict(zip(texts, unit_vectors(np.concatenate(batches)), strict=True))
        self._faces = unit_vectors(faces)
        self._mean_face = unit_vectors(self._faces.mean(axis=0))

    def prefers_true(self, exchange: Exchange, *, of_mean_face: bool = False) -> bool:
        """Whether the true caption is nearer than the changed one, to the face or to the mean of all faces."""
        z = self._mean_face if of_mean_face else self._faces[exchange.face]
        return bool(z @ self._text[exchange.true] > z @ self._text[exchange.text])

    def locate(self, exchange: Exchange) -> int:
        """Return the index of the phrase without which the changed caption is nearest to the face."""
        z = self._faces[exchange.face]
        return int(np.argmax([z @ self._text[text] for text in exchange.without_each]))


def draw_exchanges(captions: Sequence[Caption | None], seed: int) -> list[Exchange]:
    """Exchange each phrase of each caption for a drawn one that the face lacks; at most `MAX_QUESTIONS`."""
    rng = np.random.default_rng(seed)
    found = []
    for face, caption in enumerate(captions):
        if caption is None or caption.source != "geometry":
            continue
        named, lacking = named_features(caption), lacking_features(caption)
        for number, strength in named.items() if lacking else ():
            false = int(rng.choice(lacking))
            changed = exchange(named, number, false)
            true, at = caption_text(named), list(changed).index(false)
            found.append(Exchange(face, true, phrases_of(changed), at, FEATURES[number], _adverb(strength)))
    return _draw(found, rng)


def draw_adverb_exchanges(captions: Sequence[Caption | None], seed: int) -> list[Exchange]:
    """Exchange "slightly" and "strongly" in each caption, one phrase at a time; at most `MAX_QUESTIONS`."""
    found = []
    for face, caption in enumerate(captions):
        if caption is None or caption.source != "geometry":
            continue
        named = named_features(caption)
        for at, (number, strength) in enumerate(named.items()):
            adverb = _adverb(strength)
            if adverb == _MIDDLE or "{}" not in FEATURES[number].phrase:
                continue
            changed = phrases_of(named | {number: _FULL if adverb == _WEAK else _WEAK})
            found.append(Exchange(face, caption_text(named), changed, at, FEATURES[number], adverb))
    return _draw(found, np.random.default_rng(seed))


def region_of(feature: Feature) -> str:
    """Return the part of the face that a feature is measured on."""
    measure = next(iter(feature.weights))
    return next((region for region, measures in _REGIONS.items() if measure in measures), "mouth and chin")


def _groups(exchanges: Sequence[Exchange], levels: Sequence[int | None]) -> dict[str, np.ndarray]:
    """Return masks [Q] of questions: all, and by region, adverb and words of the replaced phrase, and by level."""
    names: Mapping[str, list[str]] = {
        "region": [region_of(each.replaced) for each in exchanges],
        "adverb": [_ADVERBS[each.strength] for each in exchanges],
        "level": [str(levels[each.face] or "none") for each in exchanges],
        "phrase": [each.replaced.phrase.replace("{}", "") for each in exchanges],
    }
    groups = {"all": np.ones(len(exchanges), bool)}
    for kind, values in names.items():
        known = np.asarray(values)
        order = dict.fromkeys(f.phrase.replace("{}", "") for f in FEATURES) if kind == "phrase" else sorted(set(values))
        groups |= {f"{kind}: {value}": known == value for value in order if (known == value).any()}
    return groups


def _adverb(strength: float) -> float:
    return _WEAK if strength < MODERATE else _MIDDLE if strength < STRONG else _FULL


def _draw(exchanges: list[Exchange], rng: np.random.Generator) -> list[Exchange]:
    if len(exchanges) <= MAX_QUESTIONS:
        return exchanges
    return [exchanges[n] for n in sorted(rng.choice(len(exchanges), MAX_QUESTIONS, replace=False).tolist())]


def _example(exchange: Exchange, is_correct: bool) -> Example:
    false = exchange.phrases[exchange.false_at]
    return Example(f"{'right' if is_correct else 'wrong'}: {exchange.true}; false: {false}", {"face": exchange.face})
