"""A texture for the face of ICT-FaceKit: its materials side by side in one image, painted where its landmarks lie."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from smile_pipe.pipeline.face_model import texture
from smile_pipe.pipeline.face_model.curves import Array, bump
from smile_pipe.pipeline.face_model.ict_files import IctModel
from smile_pipe.pipeline.face_model.interface import Appearance
from smile_pipe.pipeline.face_model.texture import Canvas, Tile, grain, paint_tiles

FACE: Tile = (0.0, 0.252, 0.748, 0.748)
EYE: Tile = (0.0, 0.0, 0.248, 0.248)
TEETH: Tile = (0.752, 0.752, 0.248, 0.248)
GUMS: Tile = (0.752, 0.5, 0.248, 0.248)
IRIS: Tile = (0.252, 0.0, 0.248, 0.248)
# An eyeball's outer mesh includes the cornea, opaque here, so that the iris is painted on it.
TILES = {"M_Face": FACE, "M_BackHead": FACE, "M_Teeth": TEETH, "M_GumsTongue": GUMS}
TILES |= dict.fromkeys(("M_ScleraLeft", "M_ScleraRight"), EYE) | dict.fromkeys(("M_IrisLeft", "M_IrisRight"), IRIS)


def atlas(model: IctModel) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Texture coordinates [F * 3, 2] of every corner in the one image, and the faces [F, 3] that use them."""
    tiles = np.array([TILES.get(str(material), FACE) for material in model.materials])
    uvs = tiles[:, None, :2] + model.uvs[model.face_uvs] * tiles[:, None, 2:]
    distinct, faces = np.unique(uvs.reshape(-1, 2).astype(np.float32), axis=0, return_inverse=True)
    return distinct, faces.reshape(-1, 3).astype(np.int32)


def paint(model: IctModel, look: Appearance, size: int) -> NDArray[np.uint8]:
    """The texture of a subject, uint8 [size, size, 3], row 0 at the top."""
    marks = _landmark_uvs(model)

    def face(canvas: Canvas, look: Appearance, rng: np.random.Generator) -> None:
        _face(canvas, look, rng, marks)

    return paint_tiles(((FACE, face), (EYE, texture.eye), (TEETH, _enamel), (GUMS, _gums), (IRIS, _iris)), look, size)


def _landmark_uvs(model: IctModel) -> Array:
    """Where the landmarks lie in the face's own tile, [68, 2]."""
    place = np.full((len(model.neutral), 2), 0.5)
    is_face = model.materials == "M_Face"
    place[model.faces[is_face]] = model.uvs[model.face_uvs[is_face]]
    return place[model.landmarks]


def _face(canvas: Canvas, look: Appearance, rng: np.random.Generator, marks: Array) -> None:
    shape = canvas.u.shape
    canvas.pixels *= 1 + 0.02 * grain(rng, shape, 10)[..., None] + 0.015 * grain(rng, shape, 90)[..., None]
    skin = np.array(look.skin)
    for cheek in ((marks[31] + marks[2]) / 2, (marks[35] + marks[14]) / 2, marks[30]):
        canvas.tint(0.4 * look.blush * bump(canvas.u, canvas.v, tuple(cheek), (0.05, 0.04)), skin * (1.0, 0.74, 0.72))
    if look.stubble:
        hairs = 0.8 + 0.25 * grain(rng, shape, 150)
        canvas.tint(look.stubble * hairs * bump(canvas.u, canvas.v, tuple(marks[8]), (0.12, 0.07)), look.hair)
    canvas.tint((0.55 + 0.4 * look.lip) * _area(canvas, marks[48:60], 0.004), skin * (0.86, 0.5, 0.52))
    for eye in (marks[36:42], marks[42:48]):
        canvas.shade(0.35 * _area(canvas, eye, 0.012))
    # The landmarks run along the upper edge of the brows, which are thickest in the middle.
    thickness = look.brow * 0.006 * np.array([0.4, 0.9, 1.0, 0.9, 0.6])
    for brow, depth in ((marks[17:22], thickness), (marks[22:27], thickness[::-1])):
        below = brow - np.stack([np.zeros(5), depth], axis=1)
        canvas.tint(0.85 * _area(canvas, np.concatenate([brow, below[::-1]]), 0.003), look.hair)


def _area(canvas: Canvas, outline: Array | Sequence[Array], softness: float) -> Array:
    """1 inside the polygon `outline` [N, 2] (u, v), 0 outside, soft over about `softness` of the tile."""
    height, width = canvas.u.shape
    du, dv = (canvas.u[0, -1] - canvas.u[0, 0]) / (width - 1), (canvas.v[-1, 0] - canvas.v[0, 0]) / (height - 1)
    points = [((u - canvas.u[0, 0]) / du, (v - canvas.v[0, 0]) / dv) for u, v in outline]
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).polygon(points, fill=255)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(softness * width)), float) / 255


def _enamel(canvas: Canvas, look: Appearance, rng: np.random.Generator) -> None:
    canvas.tint(np.ones_like(canvas.u), (236, 229, 214))


def _gums(canvas: Canvas, look: Appearance, rng: np.random.Generator) -> None:
    canvas.tint(np.ones_like(canvas.u), (150, 72, 76))


def _iris(canvas: Canvas, look: Appearance, rng: np.random.Generator) -> None:
    canvas.tint(np.ones_like(canvas.u), look.iris)
