"""Exchanged phrases: captions in which one phrase is replaced by another one that the face measurably lacks.

They are the questions of the caption check (`smile_pipe.pipeline.evaluate.caption_check`) and the wrong texts of the
loss `crit` (model/README.md). After ViCrit (Wang et al., "ViCrit: a verifiable reinforcement learning proxy task for
visual perception in VLMs", 2025, arXiv 2506.10128), where a language model changes the captions.

The phrases of a caption are always in the order of `FEATURES`, and keep their adverbs, so that its form does not betray
the exchange.
"""

from collections.abc import Mapping

import numpy as np

from smile_pipe.pipeline.captions.action_units import MAX_PHRASES, join_phrases, with_intensity
from smile_pipe.pipeline.captions.geometry import FEATURES, feature_strengths
from smile_pipe.shards.sample import Caption


def named_features(caption: Caption) -> dict[int, float]:
    """Return the strengths of the features that a caption names, by their index in `FEATURES`, in its order."""
    found = feature_strengths(caption.numbers, caption.reference != "population")
    strengths = {FEATURES.index(feature): strength for feature, strength, is_named in found if is_named}
    strongest = sorted(strengths, key=lambda number: -strengths[number])[:MAX_PHRASES]
    return {number: strength for number, strength in strengths.items() if number in strongest}


def lacking_features(caption: Caption) -> list[int]:
    """Return the features that a face measurably lacks: their score is under half of their threshold."""
    found = []
    for number, feature in enumerate(FEATURES):
        score = feature.score(caption.numbers)
        if score is not None and score < feature.minimum(has_reference=caption.reference != "population") / 2:
            found.append(number)
    return found


def exchange(named: Mapping[int, float], number: int, false: int) -> dict[int, float]:
    """Name feature `false` in place of `number`, with its strength; the result is in the order of `FEATURES`."""
    changed = {n: strength for n, strength in named.items() if n != number} | {false: named[number]}
    return dict(sorted(changed.items()))


def phrases_of(strengths: Mapping[int, float]) -> tuple[str, ...]:
    """Return the phrases of features with these strengths, by their index in `FEATURES`."""
    return tuple(with_intensity(FEATURES[number].phrase, strength) for number, strength in strengths.items())


def caption_text(strengths: Mapping[int, float]) -> str:
    """Return the caption that names features with these strengths, by their index in `FEATURES`."""
    return join_phrases(phrases_of(strengths))


def false_caption(text: str, caption: Caption | None, rng: np.random.Generator) -> str:
    """Exchange a drawn phrase of a caption for a drawn one that the face lacks.

    Args:
        text: A text of the sample.
        caption: What was measured on it.
        rng: Draws the phrases.

    Returns:
        The changed caption; `text` itself if it is not the caption of these measures, or nothing can be exchanged.
    """
    if caption is None or caption.source != "geometry":
        return text
    named, lacking = named_features(caption), lacking_features(caption)
    if not named or not lacking or caption_text(named) != text:
        return text
    return caption_text(exchange(named, int(rng.choice(list(named))), int(rng.choice(lacking))))
