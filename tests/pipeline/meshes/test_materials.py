"""Materials as one texture: wrap modes, several images and colours, compared with a lookup in the images."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.shapes import card
from smile_pipe.pipeline.meshes import materials
from smile_pipe.pipeline.meshes.materials import apply_materials, load_images
from smile_pipe.pipeline.meshes.mesh import Material, Mesh, Wrap

_RNG = np.random.default_rng(0)
_IMAGES = [_RNG.integers(0, 256, (*size, 3), np.uint8) for size in ((12, 20), (7, 5), (16, 16))]


def _mesh(uvs: np.ndarray, used: tuple[Material, ...], face_materials: list[int] | None = None) -> Mesh:
    """Separate faces with texture coordinates [F, 3, 2]."""
    corners = np.arange(3 * len(uvs)).reshape(-1, 3)
    numbers = None if face_materials is None else np.array(face_materials, np.int32)
    points = np.random.default_rng(1).random((3 * len(uvs), 3))
    return Mesh.build(points, corners, uvs.reshape(-1, 2), corners, None, used, numbers)


def _nearest(image: np.ndarray, uvs: np.ndarray, wrap: tuple[Wrap, Wrap] = ("clamp", "clamp")) -> np.ndarray:
    """The pixel at each coordinate [N, 2]; NaN where it is near the border of two pixels."""
    indices, is_near = [], np.zeros(len(uvs), bool)
    for values, size, mode in ((1 - uvs[:, 1], image.shape[0], wrap[1]), (uvs[:, 0], image.shape[1], wrap[0])):
        at = values * size
        is_near |= abs(at - np.rint(at)) < 0.02
        number = np.floor(at).astype(int)
        if mode == "repeat":
            number %= size
        elif mode == "mirror":
            number %= 2 * size
            number = np.where(number < size, number, 2 * size - 1 - number)
        indices.append(np.clip(number, 0, size - 1))
    return np.where(is_near[:, None], np.nan, image[indices[0], indices[1]])


def _assert_shows(mesh: Mesh, before: Mesh) -> None:
    """The texture shows at many points of each face what its material describes."""
    numbers = [0] * len(before.faces) if before.face_materials is None else before.face_materials
    weights = np.random.default_rng(2).dirichlet((1, 1, 1), 60)
    num_compared = 0
    for face, number in enumerate(numbers):
        material = before.materials[number]
        shown = _nearest(mesh.texture, weights @ mesh.uvs[mesh.face_uvs[face]].astype(float))
        if material.image is None or not material.has_uvs:
            np.testing.assert_array_equal(shown[~np.isnan(shown)], np.tile(material.color or (255,) * 3, len(shown)))
            continue
        uvs = before.uvs[before.face_uvs[face]] * np.array(material.uv_scale) + material.uv_offset
        wanted = _nearest(material.image, weights @ uvs, material.wrap)
        is_clear = ~np.isnan(wanted) & ~np.isnan(shown)
        num_compared += is_clear.sum()
        np.testing.assert_array_equal(shown[is_clear], wanted[is_clear])
    assert num_compared > 50 * len(numbers)


def _triangles(low: float, high: float, size: float = 0.6, count: int = 40) -> np.ndarray:
    rng = np.random.default_rng(3)
    return (rng.uniform(low, high, (count, 1, 2)) + rng.uniform(-size, size, (count, 3, 2))).astype(np.float32)


@pytest.mark.parametrize("horizontal", ["repeat", "mirror", "clamp"])
@pytest.mark.parametrize("vertical", ["repeat", "mirror", "clamp"])
def test_faces_show_the_image_beyond_its_edges(horizontal: Wrap, vertical: Wrap) -> None:
    # Clamped faces are shortened where they reach beyond -1 or 2.
    reach = 0.4 if "clamp" in (horizontal, vertical) else 6
    mesh = _mesh(_triangles(-reach, 1 + reach), (Material(image=_IMAGES[0], wrap=(horizontal, vertical)),))
    applied = apply_materials(mesh)
    assert applied.materials == () and np.array_equal(applied.faces, mesh.faces)
    _assert_shows(applied, mesh)


@pytest.mark.parametrize("mode", ["repeat", "mirror"])
def test_faces_may_show_an_image_many_times(mode: Wrap) -> None:
    mesh = _mesh(_triangles(-3, 3, size=3), (Material(image=_IMAGES[0], wrap=(mode, mode)),))
    _assert_shows(apply_materials(mesh), mesh)


def test_a_mesh_inside_its_image_is_not_changed() -> None:
    uvs = _triangles(0.5, 0.5, size=0.5).clip(0, 1)
    uvs[0] = [[0, 0], [1, 0], [1, 1.00001]]
    mesh = _mesh(uvs, (Material(image=_IMAGES[0]),))
    applied = apply_materials(mesh)
    assert applied.texture is _IMAGES[0] and applied.uvs is mesh.uvs and applied.face_uvs is mesh.face_uvs
    shared = replace(mesh, materials=2 * mesh.materials, face_materials=np.arange(40, dtype=np.int32) % 2)
    assert apply_materials(shared).texture is _IMAGES[0]


def test_a_face_beyond_an_edge_moves_to_the_image() -> None:
    mesh = _mesh(_triangles(0.5, 0.5, size=0.4) + np.float32([3, -2]), (Material(image=_IMAGES[0]),))
    assert apply_materials(mesh).texture is _IMAGES[0]
    _assert_shows(apply_materials(mesh), mesh)


def test_few_faces_across_an_edge_add_few_pixels() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    uvs = np.concatenate([_triangles(0.5, 0.5, size=0.5).clip(0, 1), [[[0.97, 0.2], [1.03, 0.2], [1, 0.4]]]])
    assert apply_materials(_mesh(uvs, (Material(image=image),))).texture.shape == (100, 103, 3)


def test_several_images_and_colours_are_one_texture() -> None:
    used = (
        Material(image=_IMAGES[0]),
        Material(image=_IMAGES[1], wrap=("mirror", "mirror")),
        Material(image=_IMAGES[2], wrap=("clamp", "clamp")),
        Material(color=(10, 200, 30)),
        Material(),
        Material(image=_IMAGES[0], uv_scale=(2, 3), uv_offset=(0.25, -0.5)),
        Material(image=_IMAGES[0], color=(1, 2, 3), has_uvs=False),
        Material(image=_IMAGES[1], color=(9, 9, 9)),
    )
    mesh = _mesh(_triangles(0, 1, size=0.5, count=70), used, [number % 7 for number in range(70)])
    applied = apply_materials(mesh)
    _assert_shows(applied, mesh)
    # Three images with their borders, and one row of colours.
    assert applied.texture.shape[0] * applied.texture.shape[1] < 12000


def test_images_in_a_stack_have_a_border_of_their_own() -> None:
    corners = np.float32([[[0, 0], [1, 0], [1, 1]]] * 2)
    red, blue = (np.full((8, 8, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))
    mesh = apply_materials(_mesh(corners, (Material(image=red), Material(image=blue)), [0, 1]))
    for face, color in ((0, (255, 0, 0)), (1, (0, 0, 255))):
        x, y = (mesh.uvs[mesh.face_uvs[face]] * [1, -1] + [0, 1]).T * np.array(mesh.texture.shape[1::-1])[:, None]
        (left, right), (upper, lower) = ((round(values.min()) - 4, round(values.max()) + 4) for values in (x, y))
        area = mesh.texture[upper:lower, left:right]
        assert area.shape == (16, 16, 3) and (area == color).all()


class TestWithoutImages:
    def test_one_colour_becomes_vertex_colours(self) -> None:
        mesh = apply_materials(_mesh(_triangles(0, 1), (Material(color=(1, 2, 3)),)))
        assert mesh.texture is None and (mesh.colors == (1, 2, 3)).all()

    def test_several_colours_keep_to_their_faces(self) -> None:
        plane = replace(card((0, 0, 0), (1, 0, 0), (0, 1, 0), 4), uvs=None, face_uvs=None)
        used = tuple(Material(color=(number, 0, 255 - number)) for number in range(32))
        mesh = replace(plane, materials=used, face_materials=np.arange(32, dtype=np.int32))
        applied = apply_materials(mesh)
        assert np.array_equal(applied.vertices, plane.vertices)
        assert [_nearest(applied.texture, applied.uvs[c])[0].tolist() for c in applied.face_uvs] == [
            list(material.color) for material in used
        ]

    def test_vertex_colours_come_before_those_of_materials(self) -> None:
        colors = np.zeros((120, 3), np.uint8)
        mesh = replace(_mesh(_triangles(0, 1), (Material(color=(1, 2, 3)),)), colors=colors)
        assert apply_materials(mesh).colors is colors

    def test_a_mesh_without_coordinates_has_no_texture(self) -> None:
        mesh = Mesh.build(np.eye(3), np.array([[0, 1, 2]]), materials=(Material(("a.png",)),))
        loaded = load_images(mesh, lambda material: pytest.fail("loaded in vain"))
        assert apply_materials(loaded).texture is None


class TestMemory:
    @pytest.fixture(autouse=True)
    def limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(materials, "MAX_STACK_PIXELS", 4096)

    def test_far_faces_get_a_coarser_image_and_others_keep_theirs(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
        near, far = _triangles(0.5, 0.5, size=0.4, count=5), np.float32([[[0, 0], [1e6, 0], [0, 1e6]]])
        mesh = _mesh(np.concatenate([near, far]), (Material(image=image),))
        applied = apply_materials(mesh)
        assert applied.texture.shape[0] * applied.texture.shape[1] <= 4096
        part = replace(applied, faces=applied.faces[:5], face_uvs=applied.face_uvs[:5])
        _assert_shows(part, replace(mesh, faces=mesh.faces[:5], face_uvs=mesh.face_uvs[:5]))
        shown = _nearest(applied.texture, applied.uvs[applied.face_uvs[5]])
        np.testing.assert_allclose(shown, np.tile(image.mean(axis=(0, 1)), (3, 1)), atol=1)

    def test_repeated_images_are_reduced_to_fit(self) -> None:
        image = np.full((60, 60, 3), 77, np.uint8)
        mesh = apply_materials(_mesh(np.float32([[[0, 0], [8, 0], [0, 8]]]), (Material(image=image),)))
        assert 2000 < mesh.texture.shape[0] * mesh.texture.shape[1] <= 4096 and (mesh.texture == 77).all()

    def test_many_images_are_reduced_to_fit(self) -> None:
        used = tuple(Material(image=np.full((40, 30, 3), number, np.uint8)) for number in range(8))
        mesh = _mesh(_triangles(0.5, 0.5, size=0.3, count=8), used, list(range(8)))
        applied = apply_materials(mesh)
        assert applied.texture.shape[0] * applied.texture.shape[1] <= 4096
        shown = [_nearest(applied.texture, applied.uvs[c].mean(axis=0)[None])[0, 0] for c in applied.face_uvs]
        assert shown == list(range(8))


def test_only_images_in_use_are_loaded() -> None:
    used = (Material(("a",)), Material(("b",)), Material(("c",), has_uvs=False), Material(image=_IMAGES[0]))
    mesh = _mesh(_triangles(0, 1, count=3), used, [0, 2, 3])
    names = []
    load_images(mesh, lambda material: names.append(material.names))
    assert names == [("a",)]
