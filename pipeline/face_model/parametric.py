"""The built-in parametric face: skin over the chart, parts behind it, deformed by identity modes and action units."""

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.face_model import anatomy
from smile_pipe.pipeline.face_model.action_units import ACTION_UNITS, IDENTITY_MODES, RESTING_LIDS
from smile_pipe.pipeline.face_model.chart import SurfacePoints, build_chart, landmark_vertices
from smile_pipe.pipeline.face_model.curves import Array
from smile_pipe.pipeline.face_model.fields import Deformer, Jaw, Skin, Stretch, left_right_fields, turn_jaw
from smile_pipe.pipeline.face_model.interface import ActionUnits, Appearance, Identity
from smile_pipe.pipeline.face_model.parts import build_parts
from smile_pipe.pipeline.face_model.texture import paint, skin_uvs
from smile_pipe.pipeline.meshes.mesh import Mesh

LID_THICKNESS = 0.9
# Width of the transition between a lid on the eyeball and the skin around it, millimetres.
LID_BLEND = 2.5
# Deformers that also move the parts behind the skin; those of lids and lips do not.
SOLID = (Skin, Stretch)


class ParametricFace:
    """A face model without a download; see `smile_pipe.pipeline.face_model.interface.FaceModel`."""

    name = "parametric"

    def __init__(self) -> None:
        self.chart = build_chart()
        self.landmarks = landmark_vertices(self.chart)
        self._parts = build_parts()
        x, y = self.chart.x, self.chart.y
        closed = np.stack([x, y, anatomy.skin(x, y)], axis=1)
        self._skin = closed + np.add(*left_right_fields((RESTING_LIDS,), self.chart, closed))
        self._rest = np.concatenate([self._skin, *(part.vertices for part in self._parts)])
        self._modes = np.stack([self._mode(deformers) for deformers in IDENTITY_MODES.values()])
        self._units = {name: self._unit(name, deformers) for name, deformers in ACTION_UNITS.items()}
        starts = np.cumsum([len(self._skin), *(len(part.vertices) for part in self._parts)])
        pieces = zip(starts, self._parts, strict=False)
        self._faces = np.concatenate([self.chart.faces, *(start + part.faces for start, part in pieces)])
        self._uvs = np.concatenate([skin_uvs(self.chart), *(part.uvs for part in self._parts)])
        self._eyeballs = (int(starts[0]), int(starts[1]))

    def identity(self, rng: np.random.Generator) -> Identity:
        """Draw a subject; mode weights are normally distributed, clipped at 2.5 standard deviations."""
        return Identity(np.clip(rng.normal(size=len(IDENTITY_MODES)), -2.5, 2.5), Appearance.sample(rng))

    def mesh(self, identity: Identity, action_units: ActionUnits) -> Mesh:
        """Build the mesh of a subject with action units; see `FaceModel.mesh`."""
        moved = np.tensordot(identity.shape, self._modes, 1)
        eyes = [(side * anatomy.EYE[0], anatomy.EYE[1], anatomy.EYE_DEPTH) for side in (1, -1)]
        centres = np.array(eyes) + moved[list(self._eyeballs)]
        vertices = self._rest + moved
        for name, (left, right) in action_units.items():
            vertices += left * self._units[name][0] + right * self._units[name][1]
        skin = vertices[: len(self._skin)]
        for centre in centres:
            _fit_over_eyeball(skin, centre)
        skin[:] = skin[self.chart.parent] + self.chart.offset
        return Mesh.build(vertices, self._faces, self._uvs, self._faces)

    def texture(self, identity: Identity, size: int) -> NDArray[np.uint8]:
        """Paint the texture of a subject; see `FaceModel.texture`."""
        return paint(identity.appearance, size)

    def _mode(self, deformers: tuple[Deformer, ...]) -> Array:
        """Compute the displacements [V, 3] of an identity mode; the parts follow the skin around them."""
        fields = [np.add(*left_right_fields(deformers, self.chart, self._skin))]
        solid = tuple(deformer for deformer in deformers if isinstance(deformer, SOLID))
        for part in self._parts:
            front = np.ones(len(part.vertices), bool)
            points = SurfacePoints(part.anchor[:, 0], part.anchor[:, 1], front, front)
            fields.append(np.add(*left_right_fields(solid, points, part.vertices)))
        return np.concatenate(fields)

    def _unit(self, name: str, deformers: tuple[Deformer, ...]) -> Array:
        """Compute the displacements [2, V, 3] of an action unit on the left and on the right side."""
        fields = [np.stack(left_right_fields(deformers, self.chart, self._skin))]
        angle = sum(deformer.angle for deformer in deformers if isinstance(deformer, Jaw))
        for part in self._parts:
            turned = 0.5 * part.jaw[:, None] * turn_jaw(part.vertices, angle)
            side = np.array([part.vertices[0, 0] > 1, part.vertices[0, 0] < -1])[:, None, None]
            fields.append(turned + side * part.gaze * (name == "AU64"))
        return np.concatenate(fields, axis=1)


def _fit_over_eyeball(skin: Array, centre: Array) -> None:
    """Move the skin [V, 3] in front of the eyeball at `centre`, so lids slide on it."""
    radius = anatomy.EYE_RADIUS + LID_THICKNESS
    away = np.hypot(skin[:, 0] - centre[0], skin[:, 1] - centre[1])
    is_near = away < radius + 4
    ball = (
        centre[2]
        + np.sqrt(np.clip(radius**2 - away[is_near] ** 2, 0, None))
        - 3 * np.clip(away[is_near] - radius, 0, None)
    )
    z = skin[is_near, 2]
    # The polynomial smooth maximum: max(z, ball), rounded where they meet.
    share = np.clip(0.5 + 0.5 * (ball - z) / LID_BLEND, 0, 1)
    skin[is_near, 2] = z + share * (ball - z) + LID_BLEND * share * (1 - share)
