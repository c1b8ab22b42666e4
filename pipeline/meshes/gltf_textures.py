"""The textures of several shapes, stacked into the one texture of a `Mesh`."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.shapes import Shape
from smile_pipe.pipeline.meshes.texture import MAX_PIXELS

_WHITE = np.full((1, 1, 3), 255, np.uint8)


def stack_textures(
    shapes: list[Shape], textures: list[NDArray[np.uint8] | None]
) -> tuple[list[Shape], NDArray[np.uint8] | None]:
    """Stack the textures of all shapes vertically; shapes without one become white if others have one.

    Args:
        shapes: their texture coordinates have (0, 0) at the upper left.
        textures: uint8 [H, W, 3] of each shape; shapes may share one.

    Returns:
        The shapes with coordinates for the stack, from the upper left; the stack uint8 [H, W, 3], or None.

    Raises:
        MeshError: the stack has more than `MAX_PIXELS` pixels.
    """
    if all(texture is None for texture in textures):
        return shapes, None
    used = [_WHITE if texture is None else texture for texture in textures]
    distinct = {id(texture): texture for texture in sorted(used, key=lambda texture: texture is _WHITE)}
    if len(distinct) == 1:
        return shapes, used[0]
    height, width = sum(map(len, distinct.values())), max(texture.shape[1] for texture in used)
    if height * width > MAX_PIXELS:
        raise MeshError(f"textures too large: {width} x {height} pixels together; the limit is {MAX_PIXELS}")
    stack, tops, top = np.zeros((height, width, 3), np.uint8), dict[int, int](), 0
    for key, texture in distinct.items():
        stack[top : top + len(texture), : texture.shape[1]] = texture
        tops[key] = top
        top += len(texture)
    return [
        _to_stack_uvs(shape, texture.shape, tops[id(texture)], stack.shape)
        for shape, texture in zip(shapes, used, strict=True)
    ], stack


def _to_stack_uvs(shape: Shape, size: tuple[int, ...], top: int, stack_size: tuple[int, ...]) -> Shape:
    """Convert coordinates on a texture of `size` (height, width) that starts at row `top` of the stack."""
    if not len(shape.uvs):
        return replace(shape, uvs=np.array([[0.5 / stack_size[1], (top + 0.5) / stack_size[0]]], np.float32))
    inside = (shape.uvs >= 0) & (shape.uvs <= 1)
    with np.errstate(invalid="ignore"):  # `Mesh.build` rejects values that are not finite
        uvs = np.where(inside, shape.uvs, shape.uvs % 1) * (size[1], size[0]) + (0, top)
    return replace(shape, uvs=(uvs / (stack_size[1], stack_size[0])).astype(np.float32))
