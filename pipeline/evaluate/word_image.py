"""Words printed into images: white letters with a black outline, at the bottom."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Of the width of the image: of the word at most, and of the letters' height.
_WIDTH, _HEIGHT = 0.9, 1 / 6
_MIN_SIZE = 6


def print_word(images: NDArray[np.uint8], word: str) -> NDArray[np.uint8]:
    """Print a word into images with the channels last, uint8 [..., H, W, C]; returns new ones."""
    letters, outline = word_masks(word, *images.shape[-3:-1])
    return np.where(letters[..., None], np.uint8(255), np.where(outline[..., None], np.uint8(0), images))


@lru_cache(maxsize=256)
def word_masks(word: str, height: int, width: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the pixels of the letters, and those of letters and outline, bool [H, W] each."""
    size = max(_MIN_SIZE, width * _HEIGHT)
    length = ImageFont.load_default(size).getlength(word)
    size = max(_MIN_SIZE, size * min(1.0, _WIDTH * width / max(length, 1)))
    font, stroke = ImageFont.load_default(size), max(1, round(size / 10))
    masks = []
    for stroke_width in (0, stroke):
        canvas = Image.new("L", (width, height))
        place = width // 2, height - stroke - 1
        ImageDraw.Draw(canvas).text(place, word, 255, font, anchor="md", stroke_width=stroke_width)
        masks.append(np.asarray(canvas) > 127)
    return masks[0], masks[1]
