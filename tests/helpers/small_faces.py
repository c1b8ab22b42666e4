"""Small faces for fixtures: the parametric face with fewer vertices, synthetic subjects, and files of them."""

from functools import cache
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from scipy.interpolate import griddata

from smile_pipe.pipeline.face_model.actor import ActorStyle, sample_action_units
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.meshes.bnt import write_bnt
from smile_pipe.pipeline.meshes.mesh import Mesh

CELL_MM = 4.5
# Strengths of the frames of a short sequence: neutral, onset, apex, offset.
COURSE = (0.0, 0.6, 1.0, 0.4)
# Indices of Bosphorus' 22 landmarks among the 83 of BU-3DFE, which lack the tip of the nose and the middle of the chin.
NOSE_TIP, CHIN, CHIN_BASE = -1, -2, 75
LM3_AMONG_83 = (30, 33, 26, 20, 23, 16, 12, 8, 4, 0, 47, 36, 44, NOSE_TIP, 39, 54, 51, 48, 62, 66, 57, CHIN)


class SmallFace:
    """The parametric face with one vertex per cell of `CELL_MM`; landmark vertices are kept."""

    def __init__(self) -> None:
        self.model = ParametricFace()
        chart = self.model.chart
        cells = np.stack([chart.x // CELL_MM, chart.y // CELL_MM, chart.above_mouth, chart.above_eyes], axis=1)
        # The first vertex represents its cell; landmarks come first, so they are kept.
        order = np.unique(np.concatenate([self.model.landmarks, np.arange(len(cells))]), return_index=True)[1].argsort()
        _, first, cell_of = np.unique(cells[chart.parent][order], axis=0, return_index=True, return_inverse=True)
        self.vertex_ids, cell_vertex = order[first], np.empty(len(cells), np.intp)
        cell_vertex[order] = cell_of.ravel()
        faces = np.unique(cell_vertex[chart.faces], axis=0)
        self.faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
        self.landmarks = cell_vertex[self.model.landmarks]


@cache
def small_face() -> SmallFace:
    """Build the small face once for all fixtures."""
    return SmallFace()


class Person:
    """A synthetic subject, determined by its number."""

    def __init__(self, number: int) -> None:
        self.rng = np.random.default_rng(number)
        self.face = small_face()
        self.sex = "FM"[number % 2]
        self.identity = self.face.model.identity(self.rng)
        self.style = ActorStyle.sample(self.rng)
        self.picture = Image.fromarray(self.face.model.texture(self.identity, 64))

    def show(
        self, expression: str, strength: float = 1.0, sides: tuple[float, float] = (1.0, 1.0)
    ) -> tuple[Mesh, np.ndarray]:
        """Build the mesh of an expression or of an action unit with its sides, and its 83 landmarks [83, 3]."""
        units = (
            {expression: sides}
            if expression.startswith("AU")
            else sample_action_units(expression, 4, self.style, self.rng)
        )
        full = self.face.model.mesh(self.identity, {u: (strength * a, strength * b) for u, (a, b) in units.items()})
        uvs = full.uvs[self.face.vertex_ids]
        mesh = Mesh.build(full.vertices[self.face.vertex_ids], self.face.faces, uvs, self.face.faces)
        return mesh, full.vertices[self.face.model.landmarks]

    def texture(self, path: Path) -> None:
        """Write the texture as an image, in the format of the suffix."""
        self.picture.save(path)


def lm3_points(mesh: Mesh, landmarks: np.ndarray) -> np.ndarray:
    """Derive Bosphorus' 22 landmarks [22, 3] from the 83."""
    points = landmarks[list(LM3_AMONG_83)]
    x, y, z = mesh.vertices.T
    points[LM3_AMONG_83.index(NOSE_TIP)] = mesh.vertices[np.argmax(z)]
    points[LM3_AMONG_83.index(CHIN)] = mesh.vertices[np.argmin(np.hypot(x, y - landmarks[CHIN_BASE, 1] - 12))]
    return points


def write_range_image(path: Path, mesh: Mesh, step: float = 3.0) -> None:
    """Write the face as a range image like those of Bosphorus: a grid of points from the front, with background."""
    x, y = np.meshgrid(np.arange(-60, 60, step), np.arange(-126, 70, step))
    z = griddata(mesh.vertices[:, :2], mesh.vertices[:, 2], (x, y))
    image = np.stack([(x - x.min()) / np.ptp(x), (y - y.min()) / np.ptp(y)], axis=2)
    write_bnt(path, np.stack([x, y, z], axis=2), image, path.with_suffix(".png").name)


def write_obj(path: Path, mesh: Mesh, scale: float = 1.0, material: str | None = None) -> None:
    """Write an OBJ with texture coordinates, and optionally a material file that names the image next to it."""
    lines = [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in (scale * mesh.vertices).tolist()]
    lines += [f"vt {u:.5f} {v:.5f}" for u, v in mesh.uvs.tolist()]
    lines += [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in (mesh.faces + 1).tolist()]
    if material:
        path.with_name(material).write_text(f"newmtl skin\nmap_Kd {path.with_suffix('.jpg').name}\n")
        lines = [f"mtllib {material}", "usemtl skin", *lines]
    path.write_text("\n".join(lines) + "\n")


def write_ply(path: Path, mesh: Mesh) -> None:
    """Write a binary PLY without colours or texture."""
    path.write_bytes(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).export(file_type="ply"))
