"""The dataset card of a shard set."""

from collections import Counter
from collections.abc import Sequence

from pipeline.cards.words import ETHICS, front_matter, prompts_of, source_of, table
from pipeline.expressions import word_for
from shards.index import IndexRow
from shards.manifest import ShardManifest
from shards.words import counted, samples_in_words

MAX_EXPRESSIONS = 60


def shards_card(manifest: ShardManifest, rows: Sequence[IndexRow]) -> str:
    """The card as Markdown; `rows` are those of the index."""
    counts = Counter(row.expression for row in rows)
    shown = [(word_for(name), counts[name]) for name in manifest.expressions[:MAX_EXPRESSIONS]]
    settings, sequences = manifest.settings, manifest.num_sequences
    kinds = samples_in_words(manifest.num_samples - sequences, sequences)
    channels = ", ".join(manifest.channels)
    return f"""{front_matter(pretty_name="Multiview renderings of 3D faces", tags=["webdataset", "3d", "faces"])}
# Multiview renderings of 3D faces

{kinds} of {counted(manifest.num_subjects, "subject")}, each seen from {counted(len(manifest.views), "view")}
({", ".join(manifest.views)}) in the channels {channels}, {manifest.image_size} pixels a side, drawn by
{manifest.renderer}. {counted(manifest.num_failures, "sample")} could not be read or drawn; `failures.parquet` says why.

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
