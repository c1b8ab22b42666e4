"""HTML pages of reports, from the templates in `templates/`.

A page is self-contained: it loads nothing from outside and runs no script. It works on phones, in light and dark mode.
Jinja escapes all values, so that text from outside, such as names of expressions, is not markup.
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from smile_pipe.model.config import has_classifier
from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.data.temporal import describe_temporal
from smile_pipe.pipeline.reports.formatting import format_deviation, format_interval, format_percent, protocol_title
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest, single_view
from smile_pipe.pipeline.runs.question_scores import question_title
from smile_pipe.shards.formatting import describe_samples, pluralize


def render_page(
    template: str,
    manifest: EvaluationManifest | CrossvalManifest,
    scores: Mapping[str, Any],
    figures: Mapping[str, bytes],
    facts: Mapping[str, str],
    contact_sheet: bytes | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> str:
    """Render a report.

    Args:
        template: file name of the template.
        manifest: the result of the stage.
        scores: scores by protocol, in the order of the columns.
        figures: SVG or PNG by caption, in order.
        facts: facts on the run and its data, by name.
        contact_sheet: image of some of the scored faces (SVG or PNG), if there is one.
        pictures: picture of answers (SVG or PNG), by the name of the question or of the protocol.
    """
    levels = {level for score in scores.values() for level in score.per_level}
    return _ENVIRONMENT.get_template(template).render(
        manifest=manifest,
        scores=scores,
        figures=figures,
        facts=facts,
        contact_sheet=contact_sheet,
        pictures=pictures or {},
        levels=sorted(levels, key=lambda level: (len(level), level)),
        is_supervised=has_classifier(manifest.recipe),
    )


def _data_url(image: bytes) -> str:
    """Return an image as a `data:` URL."""
    media_type = "image/png" if image.startswith(b"\x89PNG") else "image/svg+xml"
    return f"data:{media_type};base64,{base64.b64encode(image).decode()}"


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "data_url": _data_url,
    "deviation": format_deviation,
    "interval": format_interval,
    "percent": format_percent,
    "pluralize": pluralize,
    "single_view": single_view,
    "question_title": question_title,
    "title_of": protocol_title,
    "word": word_for,
}
_ENVIRONMENT.globals |= {"describe_samples": describe_samples, "describe_temporal": describe_temporal}
