"""Plotly figures of the page: a face that can be rotated, probabilities as bars, and probabilities over time.

Meshes are simplified, so that the size of a figure is bounded.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh

# A browser rotates so many faces smoothly, and they are quick to send.
MAX_FACES = 60_000
_SKIN = (214, 188, 172)
_STRONG, _PALE = "#c2410c", "#94a3b8"
# Okabe and Ito's colours, which people with colour blindness can distinguish.
_LINES = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#0072b2", "#56b4e9", "#7f7f7f")


def face_figure(mesh: Mesh) -> go.Figure:
    """Draw a mesh in the canonical frame from the front, in its own colours."""
    vertices, colors, faces = _simplified(mesh.vertices, vertex_colors(mesh), mesh.faces)
    surface = go.Mesh3d(
        **dict(zip("xyz", vertices.T, strict=True)),
        **dict(zip("ijk", faces.T, strict=True)),
        vertexcolor=colors,
        hoverinfo="skip",
        flatshading=False,
        lighting={"ambient": 0.55, "diffuse": 0.6, "specular": 0.05, "roughness": 0.9},
        lightposition={"x": 0, "y": 200, "z": 1000},
    )
    hidden = {"visible": False}
    camera = {"up": {"x": 0, "y": 1, "z": 0}, "eye": {"x": 0, "y": 0, "z": 1.6}}
    figure = go.Figure(surface)
    figure.update_layout(
        scene={"xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "data", "camera": camera},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        height=380,
        # Keeps the rotation that the visitor chose when the page changes.
        uirevision="face",
    )
    return figure


def vertex_colors(mesh: Mesh) -> NDArray[np.uint8]:
    """Return the colour of each vertex, uint8 [V, 3]: that of the texture, its own, or a plain skin tone."""
    colors = np.empty((len(mesh.vertices), 3), np.uint8)
    colors[:] = _SKIN if mesh.colors is None else mesh.colors
    if mesh.texture is None or mesh.uvs is None or mesh.face_uvs is None:
        return colors
    height, width = mesh.texture.shape[:2]
    # As in the renderer.
    u, v = np.clip(mesh.uvs, 0, 1).T
    texels = mesh.texture[((1 - v) * (height - 1)).astype(np.int64), (u * (width - 1)).astype(np.int64)]
    colors[mesh.faces.ravel()] = texels[mesh.face_uvs.ravel()]
    return colors


def probabilities_figure(probabilities: Mapping[str, float]) -> go.Figure:
    """Draw probabilities by class as bars, the largest at the top and highlighted."""
    ordered = sorted(probabilities.items(), key=lambda item: item[1])
    values = [100 * value for _, value in ordered]
    bars = go.Bar(
        x=values,
        y=[name for name, _ in ordered],
        orientation="h",
        text=[f"{value:.1f} %" for value in values],
        textposition="outside",
        cliponaxis=False,
        marker_color=[_PALE] * (len(ordered) - 1) + [_STRONG],
        hoverinfo="skip",
    )
    figure = go.Figure(bars)
    figure.update_layout(
        xaxis={"range": [0, 118], "visible": False, "fixedrange": True},
        yaxis={"fixedrange": True, "automargin": True},
        margin={"l": 0, "r": 0, "t": 4, "b": 4},
        height=44 + 34 * len(ordered),
    )
    return figure


def probabilities_over_time_figure(
    times: Sequence[float], probabilities: NDArray[np.float64], names: Sequence[str], frame: int
) -> go.Figure:
    """Draw the probabilities of the frames of a sequence.

    Args:
        times: seconds of each frame.
        probabilities: float64 [T, K].
        names: the K classes.
        frame: index of the frame that a vertical line marks.
    """
    figure = go.Figure()
    for number, name in enumerate(names):
        color = _LINES[number % len(_LINES)]
        figure.add_scatter(
            x=list(times), y=100 * probabilities[:, number], name=name, mode="lines+markers", line_color=color
        )
    figure.add_vline(x=times[frame], line_dash="dot", line_color=_STRONG)
    figure.update_layout(
        xaxis={"title": "seconds"},
        yaxis={"title": "percent", "range": [-3, 103], "fixedrange": True},
        legend={"orientation": "h", "y": -0.3},
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        height=320,
    )
    return figure


def _simplified(
    vertices: NDArray[np.float32], colors: NDArray[np.uint8], faces: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.int32]]:
    """Merge vertices in each cell of a grid, until at most `MAX_FACES` faces are left (Rossignac and Borrel, 1993)."""
    # A fixed cell size suits a face, which is within a few units of the origin. One relative to the bounds would grow
    # with stray vertices.
    cell = 0.0
    new_vertices, new_colors, new_faces = vertices, colors, faces
    while len(new_faces) > MAX_FACES:
        cell = 1.5 * cell or 0.01
        _, first, inverse = np.unique(
            np.round(vertices / cell).astype(np.int64), axis=0, return_index=True, return_inverse=True
        )
        new_faces = inverse.ravel()[faces].astype(np.int32)
        is_face = (new_faces != np.roll(new_faces, 1, axis=1)).all(axis=1)
        new_vertices, new_colors, new_faces = vertices[first], colors[first], new_faces[is_face]
    return new_vertices, new_colors, new_faces
