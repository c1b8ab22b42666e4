"""Paths and URLs as text: parsing, schemes, and the check that a URL contains no credentials."""

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from fsspec import get_filesystem_class
from upath import UPath

from smile_pipe.shards.errors import UsageError

_SECRET = re.compile(r"key|token|secret|password|signature|credential|^sig$", re.IGNORECASE)
# fsspec chains file systems: simplecache::s3://bucket/shards
_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*([A-Za-z][A-Za-z0-9+.-]*)://")

SEPARATOR = "::"
"""Separates the shard sets of a text that names several."""
# These take the rest of a chained URL as their storage.
_WRAPPERS = frozenset(("simplecache", "filecache", "blockcache"))
_ARCHIVES = frozenset(("zip", "tar", "libarchive", "reference"))


def split_sets(text: str) -> list[str]:
    """The shard sets that a text names: `A::simplecache::s3://bucket/B` is `A` and `simplecache::s3://bucket/B`."""
    sets, chain = [], ""
    for part in text.split(SEPARATOR):
        chain += part
        scheme, is_url, _ = part.lower().partition("://")
        if scheme in _WRAPPERS or (is_url and scheme in _ARCHIVES):
            chain += SEPARATOR
        else:
            sets.append(chain)
            chain = ""
    return [*sets, chain.removesuffix(SEPARATOR)] if chain else sets


def scheme_of(text: str) -> str:
    """The scheme of a URL in lower case, of a chained URL that of the storage; "" for a path."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else ""


def check_no_credentials(text: str) -> None:
    """Refuse a URL that contains credentials; the message does not repeat them.

    Raises:
        UsageError: The URL has a password, or a parameter such as a signature.
    """
    for parts in map(urlsplit, text.split("::")):
        if parts.password is not None or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query)):
            bare = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
            raise UsageError(f"{bare}: credentials do not belong in a URL; set them in the environment")


def absolute(text: str) -> str:
    """A path or URL, independent of the working directory; workers have another one than the user."""
    return text if scheme_of(text) else str(Path(os.path.expanduser(text)).absolute())


def absolute_sets(text: str) -> str:
    """`absolute` for each shard set of a text that may name several."""
    return SEPARATOR.join(map(absolute, split_sets(text)))


def schemes_of(text: str) -> set[str]:
    """`scheme_of` for each shard set of a text that may name several."""
    return set(map(scheme_of, split_sets(text)))


def parse_path(text: str) -> UPath:
    """Convert text to a local path or a URL of fsspec; `~` is the home folder.

    Raises:
        UsageError: The URL has an unknown scheme, or contains credentials.
    """
    check_no_credentials(text)
    scheme = scheme_of(text)
    if scheme == "":
        # `Path.expanduser` raises where there is no user of that name.
        return UPath(Path(os.path.expanduser(text)))
    if scheme == "file":
        return UPath(Path(text.removeprefix("file://")))
    try:
        get_filesystem_class(scheme)
        # Listings are not cached: other processes write to the same folder.
        return UPath(text, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{text}: {error}") from None
