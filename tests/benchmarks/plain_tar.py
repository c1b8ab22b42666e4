"""Write images as the plain scripts do: Pillow into a tar."""

import io
import tarfile

import numpy as np
from PIL import Image


def add_image(tar: tarfile.TarFile, name: str, channel: str, pixels: np.ndarray) -> None:
    """Add colours as JPEG with the quality of shards, other images as PNG with the fastest compression of Pillow."""
    buffer = io.BytesIO()
    if channel == "rgb":
        Image.fromarray(pixels).save(buffer, "JPEG", quality=92, subsampling=0)
    else:
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    member = tarfile.TarInfo(f"{name}.{channel}")
    member.size = buffer.tell()
    buffer.seek(0)
    tar.addfile(member, buffer)
