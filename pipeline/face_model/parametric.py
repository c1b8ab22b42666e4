"""Our own face: a skin over the chart, parts behind it, moved by identity modes and action units."""

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.face_model import anatomy
from smile_pipe.pipeline.face_model.action_units import ACTION_UNITS, IDENTITY_MODES, RESTING_LIDS
from smile_pipe.pipeline.face_model.chart import Places, build_chart, landmark_vertices
from smile_pipe.pipeline.face_model.curves import Array
from smile_pipe.pipeline.face_model.fields import Jaw, Skin, Stretch, Stroke, halves, turn_jaw
from smile_pipe.pipeline.face_model.interface import ActionUnits, Appearance, Identity
from smile_pipe.pipeline.face_model.parts import build_parts
from smile_pipe.pipeline.face_model.texture import paint, skin_uvs
from smile_pipe.pipeline.meshes.mesh import Mesh

LID_THICKNESS = 0.9
# Over how many millimetres the lid's bulge over the eyeball runs out into the skin around.
LID_BLEND = 2.5
# The strokes that also move what lies behind the skin; those of lids and lips do not.
SOLID = (Skin, Stretch)


class ParametricFace:
    """A face model that needs no download; see `smile_pipe.pipeline.face_model.interface.FaceModel`."""

    name = "parametric"

    def __init__(self) -> None:
        self.chart = build_chart()
        self.landmarks = landmark_vertices(self.chart)
        self._parts = build_parts()
        x, y = self.chart.x, self.chart.y
        closed = np.stack([x, y, anatomy.skin(x, y)], axis=1)
        self._skin = closed + np.add(*halves((RESTING_LIDS,), self.chart, closed))
        self._rest = np.concatenate([self._skin, *(part.vertices for part in self._parts)])
        self._modes = np.stack([self._mode(strokes) for strokes in IDENTITY_MODES.values()])
        self._units = {name: self._unit(name, strokes) for name, strokes in ACTION_UNITS.items()}
        starts = np.cumsum([len(self._skin), *(len(part.vertices) for part in self._parts)])
        pieces = zip(starts, self._parts, strict=False)
        self._faces = np.concatenate([self.chart.faces, *(start + part.faces for start, part in pieces)])
        self._uvs = np.concatenate([skin_uvs(self.chart), *(part.uvs for part in self._parts)])
        self._eyeballs = (int(starts[0]), int(starts[1]))

    def identity(self, rng: np.random.Generator) -> Identity:
        """A subject at random: each mode normally distributed, cut at two and a half standard deviations."""
        return Identity(np.clip(rng.normal(size=len(IDENTITY_MODES)), -2.5, 2.5), Appearance.sample(rng))

    def mesh(self, identity: Identity, action_units: ActionUnits) -> Mesh:
        """The subject's face with these action units; see `FaceModel.mesh`."""
        moved = np.tensordot(identity.shape, self._modes, 1)
        eyes = [(side * anatomy.EYE[0], anatomy.EYE[1], anatomy.EYE_DEPTH) for side in (1, -1)]
        centres = np.array(eyes) + moved[list(self._eyeballs)]
        vertices = self._rest + moved
        for name, (left, right) in action_units.items():
            vertices += left * self._units[name][0] + right * self._units[name][1]
        skin = vertices[: len(self._skin)]
        for centre in centres:
            _drape(skin, centre)
        skin[:] = skin[self.chart.parent] + self.chart.offset
        return Mesh.build(vertices, self._faces, self._uvs, self._faces)

    def texture(self, identity: Identity, size: int) -> NDArray[np.uint8]:
        """The subject's texture; see `FaceModel.texture`."""
        return paint(identity.look, size)

    def _mode(self, strokes: tuple[Stroke, ...]) -> Array:
        """What an identity mode does to every vertex, [V, 3]; the parts follow the skin about them."""
        fields = [np.add(*halves(strokes, self.chart, self._skin))]
        solid = tuple(stroke for stroke in strokes if isinstance(stroke, SOLID))
        for part in self._parts:
            front = np.ones(len(part.vertices), bool)
            places = Places(part.anchor[:, 0], part.anchor[:, 1], front, front)
            fields.append(np.add(*halves(solid, places, part.vertices)))
        return np.concatenate(fields)

    def _unit(self, name: str, strokes: tuple[Stroke, ...]) -> Array:
        """What an action unit does to every vertex on the left and on the right side, [2, V, 3]."""
        fields = [np.stack(halves(strokes, self.chart, self._skin))]
        angle = sum(stroke.angle for stroke in strokes if isinstance(stroke, Jaw))
        for part in self._parts:
            turned = 0.5 * part.jaw[:, None] * turn_jaw(part.vertices, angle)
            side = np.array([part.vertices[0, 0] > 1, part.vertices[0, 0] < -1])[:, None, None]
            fields.append(turned + side * part.gaze * (name == "AU64"))
        return np.concatenate(fields, axis=1)


def _drape(skin: Array, centre: Array) -> None:
    """Lay the skin [V, 3] over the eyeball at `centre`, so that a lid slides on it wherever it moves."""
    radius = anatomy.EYE_RADIUS + LID_THICKNESS
    away = np.hypot(skin[:, 0] - centre[0], skin[:, 1] - centre[1])
    near = away < radius + 4
    ball = (
        centre[2] + np.sqrt(np.clip(radius**2 - away[near] ** 2, 0, None)) - 3 * np.clip(away[near] - radius, 0, None)
    )
    z = skin[near, 2]
    # The polynomial smooth maximum: max(z, ball), rounded where they meet.
    share = np.clip(0.5 + 0.5 * (ball - z) / LID_BLEND, 0, 1)
    skin[near, 2] = z + share * (ball - z) + LID_BLEND * share * (1 - share)
