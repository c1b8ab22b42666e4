"""Sentences that both cards have, and Markdown for tables."""

from collections.abc import Iterable, Sequence

import yaml

from shards.manifest import TextSource

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
