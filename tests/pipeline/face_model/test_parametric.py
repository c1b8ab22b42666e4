"""Face models: dimensions, symmetry, and the effect of each action unit and identity mode."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from helpers.paths import REPOSITORY
from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.pipeline.face_model import anatomy
from smile_pipe.pipeline.face_model.action_units import ACTION_UNITS, IDENTITY_MODES
from smile_pipe.pipeline.face_model.actor import BACKGROUND_UNITS, LEVELS, PROTOTYPES, ActorStyle, sample_action_units
from smile_pipe.pipeline.face_model.chart import build_chart
from smile_pipe.pipeline.face_model.curves import interpolate
from smile_pipe.pipeline.face_model.ict import SHAPES, IctFace
from smile_pipe.pipeline.face_model.interface import Appearance, Identity
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.synth.config import SynthConfig
from smile_pipe.pipeline.synth.stage import run
from smile_pipe.shards.errors import UsageError

BROW_INNER, BROW_OUTER, NOSE, CHEEK = (12, 40), (40, 42), (10, -12), (38, -8)
CORNER, CHIN, UPPER_LIP, LOWER_LIP = (25, -48), (0, -72), (8, -45), (8, -53)

# Action unit, a point of its region on the closed face (subject's left), and the signs of its displacement.
MOVES = (
    ("AU1", BROW_INNER, (0, 1, 0)),
    ("AU2", BROW_OUTER, (0, 1, 0)),
    ("AU4", BROW_INNER, (-1, -1, 0)),
    ("AU6", CHEEK, (0, 1, 1)),
    ("AU9", NOSE, (0, 1, 0)),
    ("AU10", UPPER_LIP, (0, 1, 0)),
    ("AU12", CORNER, (1, 1, -1)),
    ("AU15", CORNER, (0, -1, 0)),
    ("AU16", LOWER_LIP, (0, -1, 0)),
    ("AU17", CHIN, (0, 1, 0)),
    ("AU18", CORNER, (-1, 0, 0)),
    ("AU20", CORNER, (1, 0, -1)),
    ("AU23", (0, -55), (0, 1, 0)),
    ("AU24", (0, -42), (0, -1, 0)),
    ("AU25", LOWER_LIP, (0, -1, 0)),
    ("AU26", CHIN, (0, -1, -1)),
)
UPPER_FACE = {"AU1", "AU2", "AU4", "AU5", "AU7", "AU43", "AU64"}
LOWER_FACE = {"AU12", "AU14", "AU15", "AU16", "AU17", "AU18", "AU20", "AU23", "AU24", "AU25", "AU26"}


@pytest.fixture(scope="module")
def face() -> ParametricFace:
    return ParametricFace()


@pytest.fixture(scope="module")
def average(face: ParametricFace) -> Identity:
    return Identity(np.zeros(len(IDENTITY_MODES)), Appearance.sample(np.random.default_rng(0)))


@pytest.fixture(scope="module")
def ict_path() -> Path:
    folder = os.environ.get("SMILE_PIPE_FACES") or REPOSITORY.parent / "shared" / "faces"
    path = Path(folder) / "ict_facekit.npz"
    if not path.is_file():
        pytest.skip(f"ICT-FaceKit is not at {path}; name its folder in SMILE_PIPE_FACES")
    return path


def _displacements(face, identity, **units):
    """Displacements of the skin from neutral, [V, 3], and the chart."""
    number = len(face.chart.x)
    after = face.mesh(identity, units).vertices[:number]
    return after - face.mesh(identity, {}).vertices[:number], face.chart


def _nearest_vertex(chart, place, side=1):
    distance = np.hypot(chart.x - side * place[0], chart.y - place[1])
    return int(np.argmin(np.where(chart.parent == np.arange(len(chart.x)), distance, np.inf)))


def _opening(mesh, face):
    """Heights of the openings of the left eye and of the mouth, from the landmarks."""
    points = mesh.vertices[face.landmarks]
    return points[10, 1] - points[14, 1], points[62, 1] - points[66, 1]


def test_face_has_the_size_of_an_adult_head_and_faces_forward(face, average):
    mesh = face.mesh(average, {})
    assert 8_000 <= len(mesh.vertices) <= 12_000
    width, height, depth = np.ptp(mesh.vertices, axis=0)
    assert 130 < width < 165 and 160 < height < 200 and 70 < depth < 120
    tip = mesh.vertices[np.argmax(mesh.vertices[:, 2])]
    assert abs(tip[0]) < 2 and -20 < tip[1] < 0


def test_every_vertex_is_used_and_skin_normals_point_outwards(face, average):
    mesh = face.mesh(average, {})
    assert set(mesh.faces.ravel()) == set(range(len(mesh.vertices)))
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    is_front = np.abs(a[:, 0]) < 55
    assert (normals[is_front, 2] > 0).mean() > 0.9


def test_average_face_is_symmetric(face, average):
    vertices = face.mesh(average, {}).vertices
    mirrored = vertices * (-1, 1, 1)
    for chunk in np.array_split(mirrored, 20):
        distance = np.linalg.norm(chunk[:, None] - vertices, axis=2).min(axis=1)
        assert distance.max() < 1e-3


def test_left_and_right_halves_of_action_units_are_mirror_images(face, average):
    for unit in ACTION_UNITS:
        left, right = face._units[unit]
        chart = face.chart
        pairs = [
            (_nearest_vertex(chart, place), _nearest_vertex(chart, place, -1)) for _, place, _ in MOVES if place[0] > 0
        ]
        for there, here in pairs:
            np.testing.assert_allclose(left[there], right[here] * (-1, 1, 1), atol=1e-9, err_msg=unit)
            np.testing.assert_allclose(right[there], left[here] * (-1, 1, 1), atol=1e-9, err_msg=unit)


@pytest.mark.parametrize("unit, place, direction", MOVES, ids=[row[0] for row in MOVES])
def test_action_unit_moves_its_region_in_the_expected_direction(face, average, unit, place, direction):
    moved, chart = _displacements(face, average, **{unit: (1.0, 1.0)})
    for side in (1, -1):
        displacement = moved[_nearest_vertex(chart, place, side)] * (side, 1, 1)
        for axis, sign in enumerate(direction):
            if sign and not (axis == 0 and place[0] == 0):
                assert displacement[axis] * sign > 0.8, f"axis {axis}: {displacement}"


@pytest.mark.parametrize("unit", sorted(UPPER_FACE | LOWER_FACE))
def test_action_unit_does_not_move_the_other_half_of_the_face(face, average, unit):
    moved, chart = _displacements(face, average, **{unit: (1.0, 1.0)})
    elsewhere = chart.y < -25 if unit in UPPER_FACE else chart.y > 20
    assert np.abs(moved[elsewhere]).max() < 0.1
    assert np.linalg.norm(moved, axis=1).max() > 1.0


@pytest.mark.parametrize("unit", ["AU2", "AU6", "AU12", "AU15", "AU20"])
def test_one_sided_action_unit_does_not_move_the_other_side(face, average, unit):
    moved, chart = _displacements(face, average, **{unit: (1.0, 0.0)})
    assert np.abs(moved[chart.x < -30]).max() < 0.1
    assert np.linalg.norm(moved[chart.x > 10], axis=1).max() > 3.0


def test_eyes_widen_narrow_and_close_and_the_mouth_opens(face, average):
    eye, mouth = _opening(face.mesh(average, {}), face)
    assert 8 < eye < 13 and mouth == pytest.approx(0, abs=0.1)
    wide, _ = _opening(face.mesh(average, {"AU5": (1.0, 1.0)}), face)
    narrow, _ = _opening(face.mesh(average, {"AU7": (1.0, 1.0)}), face)
    closed, _ = _opening(face.mesh(average, {"AU43": (1.0, 1.0)}), face)
    assert wide > eye + 3 and narrow < eye - 3 and closed < 0.5
    _, dropped = _opening(face.mesh(average, {"AU26": (1.0, 1.0)}), face)
    assert dropped > 15


@pytest.mark.parametrize(
    "units", [{}, {"AU5": (1.0, 1.0)}, {"AU43": (1.0, 1.0)}, {"AU6": (1.0, 1.0), "AU12": (1.0, 1.0)}]
)
def test_lids_stay_in_front_of_the_eyeballs(face, units):
    for seed in range(5):
        identity = face.identity(np.random.default_rng(seed))
        vertices = face.mesh(identity, units).vertices
        num_skin = len(face.chart.x)
        eyeball = vertices[num_skin : num_skin + len(face._parts[0].vertices)]
        shift = eyeball[0] - face._parts[0].vertices[0]
        centre = np.array([*anatomy.EYE, anatomy.EYE_DEPTH]) + shift
        is_rim = face.chart.parent != np.arange(num_skin)
        skin = vertices[:num_skin][~is_rim]
        assert np.linalg.norm(skin - centre, axis=1).min() > anatomy.EYE_RADIUS


def test_unknown_action_unit_is_rejected(face, average):
    with pytest.raises(KeyError):
        face.mesh(average, {"AU99": (1.0, 1.0)})


def test_83_landmarks_are_in_their_regions(face, average):
    points = face.mesh(average, {}).vertices[face.landmarks]
    assert points.shape == (83, 3)
    right_eye, left_eye, right_brow, left_brow = points[:8], points[8:16], points[16:26], points[26:36]
    assert right_eye[:, 0].max() < 0 < left_eye[:, 0].min()
    assert right_brow[:, 0].max() < 0 < left_brow[:, 0].min()
    assert left_brow[:, 1].min() > left_eye[:, 1].max()
    nose, outer_lip, inner_lip, contour = points[36:48], points[48:60], points[60:68], points[68:83]
    assert nose[:, 1].min() > outer_lip[:, 1].max() and nose[:, 1].max() < left_brow[:, 1].max()
    assert outer_lip[:, 1].min() < inner_lip[:, 1].min() and outer_lip[:, 1].max() > inner_lip[:, 1].max()
    assert np.argmin(contour[:, 1]) == 7 and contour[0, 0] < -60 and contour[-1, 0] > 60


def test_equal_seeds_give_equal_identities_and_other_seeds_do_not(face):
    first, same, other = (face.identity(np.random.default_rng(seed)) for seed in (1, 1, 2))
    mesh, again, another = (face.mesh(identity, {}).vertices for identity in (first, same, other))
    assert np.array_equal(mesh, again) and first.appearance == same.appearance
    assert np.linalg.norm(mesh - another, axis=1).mean() > 1.0
    assert np.abs(face.texture(first, 128).astype(int) - face.texture(other, 128)).mean() > 2


@pytest.mark.parametrize("mode", IDENTITY_MODES)
def test_identity_modes_are_symmetric(face, mode):
    field = face._modes[list(IDENTITY_MODES).index(mode)]
    assert 0.5 < np.linalg.norm(field, axis=1).max() < 12
    for place in (BROW_OUTER, CHEEK, CORNER):
        here, there = _nearest_vertex(face.chart, place), _nearest_vertex(face.chart, place, -1)
        np.testing.assert_allclose(field[here], field[there] * (-1, 1, 1), atol=1e-9)


def test_lips_and_brows_are_painted_at_their_chart_positions(face, average):
    texture = face.texture(average, 256).astype(int)
    mesh = face.mesh(average, {})

    def colour(place):
        u, v = mesh.uvs[_nearest_vertex(face.chart, place)]
        return texture[int((1 - v) * 256), int(u * 256)]

    skin = colour((0, 58))
    assert colour((26, 42.5)).sum() < skin.sum() - 60
    lip = colour((0, -53))
    assert lip[0] / lip[1] > 1.15 * skin[0] / skin[1]


def test_every_expression_has_prototypes_of_known_action_units():
    assert set(PROTOTYPES) == set(EXPRESSIONS)
    for code, variants in PROTOTYPES.items():
        assert len(variants) >= (1 if code == "NE" else 3)
        assert all(unit in ACTION_UNITS for direction in variants for unit in direction)
    assert set(BACKGROUND_UNITS) <= set(ACTION_UNITS)


def test_higher_levels_are_stronger_for_every_subject_and_expression(face):
    for subject in range(6):
        rng = np.random.default_rng(subject)
        identity, style = face.identity(rng), ActorStyle.sample(rng)
        neutral = face.mesh(identity, {}).vertices
        for code in set(EXPRESSIONS) - {"NE"}:
            units = [
                sample_action_units(code, level, style, np.random.default_rng([subject, level])) for level in LEVELS
            ]
            moved = [np.linalg.norm(face.mesh(identity, u).vertices - neutral, axis=1).mean() for u in units]
            assert moved == sorted(moved) and moved[-1] > 1.7 * moved[0], (subject, code, moved)


def test_subjects_show_the_same_expression_differently():
    styles = [ActorStyle.sample(np.random.default_rng(seed)) for seed in range(30)]
    assert {style.prototype["HA"] for style in styles} == {0, 1, 2}
    left, right = sample_action_units("HA", 4, styles[0], np.random.default_rng(0))["AU12"]
    assert left != right and left > 0.5 and right > 0.5


def test_curve_passes_through_its_knots():
    knots = ((-2.0, 1.0), (0.0, 3.0), (1.0, -1.0), (5.0, 0.0))
    x, y = np.array(knots).T
    np.testing.assert_allclose(interpolate(knots, x), y, atol=1e-12)
    np.testing.assert_allclose(interpolate(knots, np.array([-9.0, 9.0])), [1.0, 0.0])


def test_slits_share_only_their_corners():
    chart = build_chart()
    is_rim = chart.parent != np.arange(len(chart.x))
    on_mouth = ~is_rim & (chart.y == anatomy.MOUTH_LINE)
    inside = np.abs(chart.x) < anatomy.MOUTH_CORNER - 0.1
    assert (on_mouth & inside & chart.above_mouth).sum() == (on_mouth & inside & ~chart.above_mouth).sum() > 20
    assert (on_mouth & ~inside & ~chart.above_mouth).sum() == 0


def test_ict_has_every_action_unit_of_the_parametric_face():
    assert set(SHAPES) == set(ACTION_UNITS)


def test_ict_faces_are_millimetres_cropped_to_the_face_and_smile(ict_path):
    face = IctFace(ict_path)
    identity = Identity(np.zeros(100), Appearance.sample(np.random.default_rng(0)))
    neutral = face.mesh(identity, {})
    width, height, _ = np.ptp(neutral.vertices, axis=0)
    assert 130 < width < 180 and 160 < height < 230
    assert face.landmarks.shape == (68,)
    before, after = (m.vertices[face.landmarks] for m in (neutral, face.mesh(identity, {"AU12": (1.0, 0.0)})))
    assert after[54, 1] - before[54, 1] > 2 and np.linalg.norm(after[48] - before[48]) < 0.5
    assert face.texture(identity, 128).shape == (128, 128, 3)
    assert neutral.uvs.min() >= 0 and neutral.uvs.max() <= 1


def test_checkout_and_packed_file_give_the_same_face(tmp_path):
    names = sorted({f"{name}{side}" for parts in SHAPES.values() for name in parts for side in ("_L", "_R")})
    rng = np.random.default_rng(0)
    # Convex quads, whose triangles are the same for each reader.
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    neutral = (rng.normal(size=(20, 1, 3)) + square).reshape(80, 3).round(4)
    identity = rng.normal(size=(2, 80, 3)).round(4)
    shapes, uv = rng.normal(size=(len(names), 80, 3)).round(4), rng.uniform(size=(80, 2)).round(4)
    quads = np.arange(80).reshape(-1, 4)
    _write_checkout(
        tmp_path / "kit" / "FaceXModel", neutral, identity, dict(zip(names, shapes, strict=True)), uv, quads
    )
    triangles = np.stack([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]], axis=1).reshape(-1, 3)
    arrays = {"identity": identity, "expression": shapes, "expression_names": np.array(names), "uv": uv}
    arrays |= {"neutral": neutral, "faces": triangles, "faces_uv": triangles, "landmarks68": np.arange(68)}
    arrays |= {"face_material": np.zeros(len(triangles), int), "material_names": np.array(["M_Face"])}
    np.savez(tmp_path / "kit.npz", **arrays)
    checkout, packed = IctFace(tmp_path / "kit"), IctFace(tmp_path / "kit.npz")
    subject = packed.identity(np.random.default_rng(3))
    one, other = (face.mesh(subject, {"AU12": (0.7, 0.2), "AU26": (0.5, 0.5)}) for face in (checkout, packed))
    np.testing.assert_allclose(one.vertices, other.vertices, atol=1e-3)
    assert np.array_equal(one.uvs[one.face_uvs], other.uvs[other.face_uvs])
    assert np.array_equal(checkout.landmarks, packed.landmarks)


def _write_checkout(folder, neutral, identity, shapes, uv, quads):
    def points(array):
        return "".join(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in array)

    folder.mkdir(parents=True)
    faces = "usemtl M_Face\n" + "".join("f " + " ".join(f"{i + 1}/{i + 1}/1" for i in q) + "\n" for q in quads)
    texture = "".join(f"vt {u:.6f} {v:.6f}\n" for u, v in uv)
    (folder / "generic_neutral_mesh.obj").write_text("mtllib x.mtl\n" + points(neutral) + texture + faces)
    for i, mode in enumerate(identity):
        (folder / f"identity{i:03d}.obj").write_text(points(neutral + mode) + texture + faces)
    for name, shape in shapes.items():
        (folder / f"{name}.obj").write_text(points(neutral + shape) + texture + faces)
    indices = {"expressions": list(shapes), "idx_to_landmark_verts": list(range(68))}
    (folder / "vertex_indices.json").write_text(json.dumps(indices))


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"PK\x03\x04 broken"])
def test_invalid_ict_file_is_a_usage_error_with_its_name(tmp_path, content):
    path = tmp_path / "model.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"face_model .*model\.npz"):
        IctFace(path)


def test_empty_folder_and_missing_arrays_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match=r"vertex_indices\.json"):
        IctFace(tmp_path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UsageError, match="one array"):
        IctFace(tmp_path / "one.npy")
    np.savez(tmp_path / "other.npz", faces=np.zeros((1, 3)))
    with pytest.raises(UsageError, match="expression_names"):
        IctFace(tmp_path / "other.npz")


def test_ict_scans_are_written_with_68_landmarks_that_are_vertices(ict_path, tmp_path):
    config = SynthConfig(out=tmp_path, subjects=1, levels=(4,), texture_size=64, face_model=ict_path)
    manifest = run(config)
    assert manifest.face_model == "ict-facekit" and manifest.num_scans == 7
    rows = np.loadtxt(next(tmp_path.glob("*/*_HA04WH_F3D_lmk68.txt")))
    lines = next(tmp_path.glob("*/*_HA04WH_F3D.wrl")).read_text().splitlines()
    vertices = {line.rstrip(",") for line in lines}
    assert rows.shape == (68, 3)
    assert all(f"{x:.4f} {y:.4f} {z:.4f}" in vertices for x, y, z in rows)
