"""Painting what lies behind the skin: eyes, teeth and the inside of the mouth."""

import numpy as np

from pipeline.faces import anatomy
from pipeline.faces.canvas import Canvas
from pipeline.faces.curves import bump, rise
from pipeline.faces.look import Look


def eye(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """An eyeball unrolled about the pupil: the middle of the tile looks ahead, its inscribed circle lies behind."""
    away = np.hypot(canvas.u - 0.5, canvas.v - 0.5) * 2 * np.deg2rad(100) * anatomy.EYE_RADIUS
    around = np.arctan2(canvas.v - 0.5, canvas.u - 0.5)
    canvas.tint(np.ones_like(away), (228, 222, 216))
    canvas.tint(0.35 * rise(away, 9, 16), (205, 150, 140))
    iris = rise(-away, -6.6, -5.9)
    fibres = 0.12 * np.sin(around * 17 + rng.uniform(0, 6)) + 0.08 * np.sin(around * 29)
    canvas.tint(iris, np.array(look.iris) * (1.15 + fibres[..., None]))
    canvas.tint(0.6 * rise(away, 4.6, 6.3) * iris, (20, 16, 14))
    canvas.tint(rise(-away, -2.9, -2.4), (8, 8, 8))
    highlight = np.hypot((canvas.u - 0.5) * 50 - 1.5, (canvas.v - 0.5) * 50 - 2.0)
    canvas.tint(0.9 * rise(-highlight, -1.2, -0.7), (255, 255, 255))


def teeth(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """A row of teeth, side by side along u; v = 1 is at the gums."""
    canvas.tint(np.ones_like(canvas.u), (236, 229, 214))
    gaps = np.abs(((canvas.u - 0.5) * 13 + 0.5) % 1 - 0.5)
    canvas.shade(0.3 * np.exp(-0.5 * (gaps / 0.05) ** 2))
    canvas.shade(0.5 * rise(np.abs(canvas.u - 0.5), 0.22, 0.5))
    canvas.tint(rise(canvas.v + 0.06 * np.cos((canvas.u - 0.5) * 26 * np.pi), 0.72, 0.8), (176, 88, 88))


def mouth(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """The dark of the mouth, with a tongue at the bottom."""
    canvas.tint(np.ones_like(canvas.u), (46, 18, 18))
    canvas.tint(0.7 * bump(canvas.u, canvas.v, (0.5, 0.18), (0.2, 0.16)), (150, 70, 70))
