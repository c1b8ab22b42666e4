"""Texture of ICT-FaceKit: an atlas of its materials, painted with the help of its landmarks."""

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
# The outer mesh of an eyeball includes the cornea, which is opaque here, so the iris is painted on it.
TILES = {"M_Face": FACE, "M_BackHead": FACE, "M_Teeth": TEETH, "M_GumsTongue": GUMS}
TILES |= dict.fromkeys(("M_ScleraLeft", "M_ScleraRight"), EYE) | dict.fromkeys(("M_IrisLeft", "M_IrisRight"), IRIS)


def build_atlas(model: IctModel) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Compute texture coordinates in the atlas, float32 [U, 2], and the faces that use them, int32 [F, 3]."""
    tiles = np.array([TILES.get(str(material), FACE) for material in model.materials])
    uvs = tiles[:, None, :2] + model.uvs[model.face_uvs] * tiles[:, None, 2:]
    distinct, faces = np.unique(uvs.reshape(-1, 2).astype(np.float32), axis=0, return_inverse=True)
    return distinct, faces.reshape(-1, 3).astype(np.int32)


def paint(model: IctModel, appearance: Appearance, size: int) -> NDArray[np.uint8]:
    """Paint the texture of a subject, uint8 [size, size, 3], row 0 at the top."""
    landmark_uvs = _landmark_uvs(model)

    def face(canvas: Canvas, appearance: Appearance, rng: np.random.Generator) -> None:
        _face(canvas, appearance, rng, landmark_uvs)

    return paint_tiles(
        ((FACE, face), (EYE, texture.eye), (TEETH, _teeth), (GUMS, _gums), (IRIS, _iris)), appearance, size
    )


def _landmark_uvs(model: IctModel) -> Array:
    """Return the texture coordinates of the landmarks within the face's tile, [68, 2]."""
    uv_of_vertex = np.full((len(model.neutral), 2), 0.5)
    is_face = model.materials == "M_Face"
    uv_of_vertex[model.faces[is_face]] = model.uvs[model.face_uvs[is_face]]
    return uv_of_vertex[model.landmarks]


def _face(canvas: Canvas, appearance: Appearance, rng: np.random.Generator, landmark_uvs: Array) -> None:
    shape = canvas.u.shape
    canvas.pixels *= 1 + 0.02 * grain(rng, shape, 10)[..., None] + 0.015 * grain(rng, shape, 90)[..., None]
    skin = np.array(appearance.skin)
    for cheek in (
        (landmark_uvs[31] + landmark_uvs[2]) / 2,
        (landmark_uvs[35] + landmark_uvs[14]) / 2,
        landmark_uvs[30],
    ):
        canvas.tint(
            0.4 * appearance.blush * bump(canvas.u, canvas.v, tuple(cheek), (0.05, 0.04)), skin * (1.0, 0.74, 0.72)
        )
    if appearance.stubble:
        hairs = 0.8 + 0.25 * grain(rng, shape, 150)
        canvas.tint(
            appearance.stubble * hairs * bump(canvas.u, canvas.v, tuple(landmark_uvs[8]), (0.12, 0.07)), appearance.hair
        )
    canvas.tint((0.55 + 0.4 * appearance.lip) * _area(canvas, landmark_uvs[48:60], 0.004), skin * (0.86, 0.5, 0.52))
    for eye in (landmark_uvs[36:42], landmark_uvs[42:48]):
        canvas.shade(0.35 * _area(canvas, eye, 0.012))
    # The landmarks are on the upper edge of the brows, which are thickest in the middle.
    thickness = appearance.brow * 0.006 * np.array([0.4, 0.9, 1.0, 0.9, 0.6])
    for brow, depth in ((landmark_uvs[17:22], thickness), (landmark_uvs[22:27], thickness[::-1])):
        below = brow - np.stack([np.zeros(5), depth], axis=1)
        canvas.tint(0.85 * _area(canvas, np.concatenate([brow, below[::-1]]), 0.003), appearance.hair)


def _area(canvas: Canvas, outline: Array | Sequence[Array], softness: float) -> Array:
    """Rasterise the polygon `outline` [N, 2] (u, v): 1 inside, 0 outside, blurred by `softness` (share of the tile)."""
    height, width = canvas.u.shape
    du, dv = (canvas.u[0, -1] - canvas.u[0, 0]) / (width - 1), (canvas.v[-1, 0] - canvas.v[0, 0]) / (height - 1)
    points = [((u - canvas.u[0, 0]) / du, (v - canvas.v[0, 0]) / dv) for u, v in outline]
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).polygon(points, fill=255)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(softness * width)), float) / 255


def _teeth(canvas: Canvas, appearance: Appearance, rng: np.random.Generator) -> None:
    canvas.tint(np.ones_like(canvas.u), (236, 229, 214))


def _gums(canvas: Canvas, appearance: Appearance, rng: np.random.Generator) -> None:
    canvas.tint(np.ones_like(canvas.u), (150, 72, 76))


def _iris(canvas: Canvas, appearance: Appearance, rng: np.random.Generator) -> None:
    canvas.tint(np.ones_like(canvas.u), appearance.iris)
