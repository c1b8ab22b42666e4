"""glTF 2.0: geometry, types, placement and materials of a scene."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import trimesh
from PIL import Image

from helpers.small_gltf import TRIANGLE, UVS, SmallGltf, data_uri, png
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.reader import read_mesh

_PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def _read(gltf: SmallGltf, tmp_path: Path, suffix: str = ".glb") -> Mesh:
    return read_mesh(gltf.write(tmp_path / f"f{suffix}"))


def _points(**attributes: Any) -> SmallGltf:
    gltf = SmallGltf()
    gltf.show(POSITION=gltf.array(TRIANGLE), **{name: gltf.array(*values) for name, values in attributes.items()})
    return gltf


def _seen(mesh: Mesh) -> np.ndarray:
    """The texture pixel at every corner [F, 3, 3]."""
    corners = mesh.uvs[mesh.face_uvs]
    height, width, _ = mesh.texture.shape
    rows = np.clip((1 - corners[..., 1]) * height, 0, height - 1).astype(int)
    return mesh.texture[rows, np.clip(corners[..., 0] * width, 0, width - 1).astype(int)]


def _sorted_triangles(points: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Corners [F, 3, 3] with colours as sorted rows [F, 18], independent of the order of the parts."""
    rows = np.concatenate([points, colors], axis=2).reshape(-1, 18)
    return rows[np.lexsort(np.round(rows.T, 2))]


class TestScene:
    def test_transformed_parts_equal_trimesh(self, tmp_path):
        rng = np.random.default_rng(1)
        scene = trimesh.Scene()
        for number, made in enumerate(
            (trimesh.creation.box(), trimesh.creation.icosphere(1), trimesh.creation.cone(1, 2))
        ):
            matrix = trimesh.transformations.random_rotation_matrix(rng.random(3))
            matrix[:3, :3] *= rng.uniform(0.5, 3, 3) * (1, 1, -1 if number == 1 else 1)  # one is mirrored
            matrix[:3, 3] = rng.normal(0, 5, 3)
            made.visual = trimesh.visual.ColorVisuals(made, vertex_colors=rng.integers(0, 256, (len(made.vertices), 4)))
            scene.add_geometry(made, transform=matrix, parent_node_name=f"n{number - 1}" if number else None)
            scene.graph.update(frame_to=f"n{number}", matrix=matrix)
        (tmp_path / "f.glb").write_bytes(scene.export(file_type="glb"))
        files = scene.export(file_type="gltf", embed_buffers=True)
        (tmp_path / "f.gltf").write_bytes(files["model.gltf"])
        expected = trimesh.load_scene(tmp_path / "f.glb", process=False).to_mesh()
        colors = expected.visual.vertex_colors[:, :3]
        wanted = _sorted_triangles(expected.vertices[expected.faces], colors[expected.faces])
        for name in ("f.glb", "f.gltf"):
            mesh = read_mesh(tmp_path / name)
            assert len(mesh.vertices) == len(expected.vertices)
            found = _sorted_triangles(mesh.vertices[mesh.faces], mesh.colors[mesh.faces])
            np.testing.assert_allclose(found, wanted, atol=1e-4)

    def test_mirrored_part_keeps_its_orientation(self, tmp_path):
        sphere, gltf = trimesh.creation.icosphere(subdivisions=1), SmallGltf()
        indices = gltf.array(sphere.faces.ravel(), "u2")
        gltf.show({"indices": indices}, {"scale": [1, 1, -2]}, POSITION=gltf.array(sphere.vertices))
        mesh = _read(gltf, tmp_path)
        assert trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).volume == pytest.approx(2 * sphere.volume)

    def test_column_major_matrix_equals_translation_rotation_scale(self, tmp_path):
        half = np.sqrt(0.5)
        moves = {"translation": [1, 2, 3], "rotation": [0, 0, half, half], "scale": [2, 3, 4]}
        matrix = [0, 2, 0, 0, -3, 0, 0, 0, 0, 0, 4, 0, 1, 2, 3, 1]
        for node in (moves, {"matrix": matrix}, moves | {"rotation": [0, 0, 7, 7]}):
            gltf = SmallGltf()
            gltf.show(node=node)
            np.testing.assert_allclose(_read(gltf, tmp_path).vertices, [[1, 2, 3], [1, 4, 3], [-2, 2, 3]], atol=1e-6)

    def test_node_transforms_its_children_and_unused_nodes_are_skipped(self, tmp_path):
        gltf = SmallGltf()
        child = gltf.show(node={"translation": [1, 0, 0]})
        gltf.show(node={"translation": [50, 0, 0]})
        parent = gltf.add("nodes", scale=[2, 2, 2], translation=[0, 5, 0], children=[child])
        gltf.doc["scenes"] = [{"nodes": [1]}, {"nodes": [parent]}]
        gltf.doc["scene"] = 1
        assert _read(gltf, tmp_path).vertices.tolist() == (2 * TRIANGLE + [2, 5, 0]).tolist()
        del gltf.doc["scenes"], gltf.doc["scene"]
        assert sorted(_read(gltf, tmp_path).vertices[::3, 0].tolist()) == [2, 50]

    def test_lines_and_points_are_skipped(self, tmp_path):
        gltf = SmallGltf()
        gltf.show({"mode": 1})
        with pytest.raises(MeshError, match="no triangles in the scene"):
            _read(gltf, tmp_path)
        gltf.show()
        assert len(_read(gltf, tmp_path).faces) == 1


def _matrix(linear: Any = 1.0, move: Any = (0, 0, 0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear * np.eye(3) if np.isscalar(linear) else linear, move
    return matrix


def _columns(matrices: list[np.ndarray]) -> list[list[float]]:
    return [matrix.T.ravel().tolist() for matrix in matrices]


def _skinned(joints: list, weights: list, worlds: list, binds: list | None, **types: str) -> SmallGltf:
    """A triangle, posed by joints with the matrices `worlds` to the scene. The node of the mesh has another matrix."""
    gltf = SmallGltf()
    arrays = {"JOINTS_0": gltf.array(joints, types.get("JOINTS_0", "u1"))}
    arrays["WEIGHTS_0"] = gltf.array(weights, types.get("WEIGHTS_0", "f4"), normalized="WEIGHTS_0" in types)
    node = gltf.show(None, {"translation": [0, 0, 700], "skin": 0}, POSITION=gltf.array(TRIANGLE), **arrays)
    root = gltf.add("nodes", translation=[5, 0, 0], children=[node + 2 + i for i in range(len(worlds))])
    for world in worlds:
        gltf.add("nodes", matrix=(np.linalg.inv(_matrix(move=(5, 0, 0))) @ world).T.ravel().tolist())
    gltf.doc["skins"] = [{"joints": gltf.doc["nodes"][root]["children"]}]
    if binds is not None:
        gltf.doc["skins"][0]["inverseBindMatrices"] = gltf.array(_columns(binds))
    gltf.doc["scenes"][0]["nodes"].append(root)
    return gltf


class TestSkins:
    TURN = ((0, -1, 0), (1, 0, 0), (0, 0, 1))

    @pytest.mark.parametrize("types", [{}, {"JOINTS_0": "u2", "WEIGHTS_0": "u1"}, {"WEIGHTS_0": "u2"}])
    def test_vertices_follow_their_joints_and_not_the_node_of_the_mesh(self, tmp_path, types):
        worlds = [_matrix(self.TURN, (10, 0, 0)), _matrix(move=(0, 20, 0))]
        binds = [_matrix(move=(1, 2, 3)), _matrix(2.0)]
        one = np.iinfo(types["WEIGHTS_0"]).max if types else 1
        weights = np.array([[one, 0, 0, 0], [0, one, 0, 0], [one, one, 0, 0]])
        gltf = _skinned([[0, 1, 0, 0]] * 3, weights, worlds, binds, **types)
        moved = [
            (world @ bind @ np.c_[TRIANGLE, np.ones(3)].T).T[:, :3] for world, bind in zip(worlds, binds, strict=True)
        ]
        expected = [moved[0][0], moved[1][1], (moved[0][2] + moved[1][2]) / 2]
        np.testing.assert_allclose(_read(gltf, tmp_path).vertices, expected, atol=1e-5)

    def test_bind_matrices_default_to_identity_and_joints_may_be_outside_the_scene(self, tmp_path):
        gltf = _skinned([[0, 0, 0, 0]] * 3, [[0, 0, 0, 0]] * 3, [_matrix(self.TURN, (10, 0, 0))], None)
        gltf.doc["scenes"][0]["nodes"].pop()
        np.testing.assert_allclose(_read(gltf, tmp_path).vertices, [[10, 0, 0], [10, 1, 0], [9, 0, 0]], atol=1e-6)

    def test_eight_joints_of_a_vertex_are_used(self, tmp_path):
        gltf = _skinned([[0] * 4] * 3, [[0.5, 0, 0, 0]] * 3, [np.eye(4), _matrix(move=(0, 0, 8))], None)
        attributes = gltf.doc["meshes"][0]["primitives"][0]["attributes"]
        attributes["JOINTS_1"] = gltf.array([[1] * 4] * 3, "u1")
        attributes["WEIGHTS_1"] = gltf.array([[0.5, 0, 0, 0]] * 3)
        assert _read(gltf, tmp_path).vertices[:, 2].tolist() == [4, 4, 4]

    def test_mirrored_joints_keep_the_orientation(self, tmp_path):
        gltf = _skinned([[0] * 4] * 3, [[1, 0, 0, 0]] * 3, [_matrix(np.diag((1, 1, -1)))], None)
        assert _read(gltf, tmp_path).faces.tolist() == [[2, 1, 0]]

    @pytest.mark.parametrize(
        ("place", "value", "problem"),
        [
            (("skins", 0, "joints"), [2], "index out of range: a vertex has joint 1, but the skin has 1"),
            (("skins", 0, "joints"), [2, 9], "index out of range: 9 of 4 nodes"),
            (("nodes", 0, "skin"), 3, "index out of range: 3 of 1 skins"),
            (("nodes", 3, "children"), [1], "invalid scene: node . is its own ancestor"),
            (("accessors", 0, "count"), 2, "inconsistent skin: 3 vertices"),
            (("accessors", 0, "componentType"), 5120, "invalid skin: joints must be unsigned integers"),
            (("accessors", 3, "count"), 1, "truncated skin: 1 inverse bind matrices for 2 joints"),
        ],
    )
    def test_invalid_skin_is_described(self, tmp_path, place, value, problem):
        gltf = _skinned([[0, 1, 0, 0]] * 3, [[1, 0, 0, 0]] * 3, [np.eye(4)] * 2, [np.eye(4)] * 2)
        assert np.array_equal(_read(gltf, tmp_path).vertices, TRIANGLE)
        *parents, last = place
        target: Any = gltf.doc
        for parent in parents:
            target = target[parent]
        target[last] = value
        with pytest.raises(MeshError, match=problem):
            _read(gltf, tmp_path)


class TestArrays:
    @pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "f4"])
    @pytest.mark.parametrize("normalized", [False, True])
    def test_points_of_any_type(self, tmp_path, dtype, normalized):
        gltf, values = SmallGltf(), 100 * TRIANGLE
        if dtype[0] == "i":
            values[0] = np.iinfo(dtype).min
        gltf.show(POSITION=gltf.array(values, dtype, normalized=normalized))
        largest = np.iinfo(dtype).max if normalized and dtype != "f4" else 1
        expected = np.maximum(values / largest, -1) if largest > 1 else values
        np.testing.assert_allclose(_read(gltf, tmp_path).vertices, expected, rtol=1e-6)

    @pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
    def test_indices_of_any_type_or_none(self, tmp_path, dtype):
        gltf = SmallGltf()
        points = gltf.array(np.arange(18).reshape(6, 3))
        gltf.show({"indices": gltf.array([5, 3, 1, 0, 2, 4], dtype)}, POSITION=points)
        gltf.show(POSITION=points)
        assert _read(gltf, tmp_path).faces.tolist() == [[5, 3, 1], [0, 2, 4], [6, 7, 8], [9, 10, 11]]

    def test_interleaved_vertices(self, tmp_path):
        gltf = SmallGltf()
        rows = np.hstack([TRIANGLE, UVS, np.full((3, 1), 9, np.float32)])
        view = gltf.view(b"pad." + rows.tobytes(), byteStride=24)
        common = {"bufferView": view, "componentType": 5126, "count": 3}
        points = gltf.add("accessors", type="VEC3", byteOffset=4, **common)
        gltf.show(POSITION=points, TEXCOORD_0=gltf.add("accessors", type="VEC2", byteOffset=16, **common))
        mesh = _read(gltf, tmp_path)
        assert np.array_equal(mesh.vertices, TRIANGLE)
        assert np.array_equal(mesh.uvs, UVS * [1, -1] + [0, 1])

    def test_strips_and_fans_keep_orientation(self, tmp_path):
        points = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 2, 0]]
        for mode, expected in ((5, [[0, 1, 2], [1, 3, 2], [2, 3, 4]]), (6, [[1, 2, 0], [2, 3, 0], [3, 4, 0]])):
            gltf = SmallGltf()
            gltf.show({"mode": mode}, POSITION=gltf.array(points))
            assert _read(gltf, tmp_path).faces.tolist() == expected

    def test_degenerate_strip_triangles_are_dropped(self, tmp_path):
        gltf = SmallGltf()
        joined = gltf.array([0, 1, 2, 2, 3, 3, 3, 4, 5], "u1")
        gltf.show({"mode": 5, "indices": joined}, POSITION=gltf.array(np.random.default_rng(0).random((6, 3))))
        assert _read(gltf, tmp_path).faces.tolist() == [[0, 1, 2], [3, 4, 5]]

    @pytest.mark.parametrize(
        ("values", "dtype"),
        [
            ([[255, 0, 51], [0, 1, 2], [3, 128, 255]], "u1"),
            ([[65535, 0, 13107, 7], [0, 257, 514, 7], [771, 32896, 65535, 7]], "u2"),
            (np.array([[255, 0, 51], [0, 1, 2], [3, 128, 600]]) / 255, "f4"),
        ],
    )
    def test_colours_of_any_type_are_bytes_without_alpha(self, tmp_path, values, dtype):
        mesh = _read(_points(COLOR_0=(values, dtype)), tmp_path)
        assert mesh.colors.tolist() == [[255, 0, 51], [0, 1, 2], [3, 128, 255]]

    def test_nearly_black_colours_are_not_scaled(self, tmp_path):
        assert _read(_points(COLOR_0=(np.eye(3), "u1")), tmp_path).colors.tolist() == np.eye(3).tolist()


class TestTexture:
    def test_texture_and_coordinates_equal_trimesh(self, tmp_path):
        uv = np.array([[0.0, 0], [1, 0], [0, 1]])
        visual = trimesh.visual.TextureVisuals(uv=uv, image=Image.fromarray(_PIXELS))
        part = trimesh.Trimesh(TRIANGLE, [[0, 1, 2]], visual=visual, process=False)
        part.export(tmp_path / "f.glb")
        mesh = read_mesh(tmp_path / "f.glb")
        np.testing.assert_allclose(mesh.uvs, uv)
        assert np.array_equal(mesh.texture, _PIXELS) and np.array_equal(mesh.faces, mesh.face_uvs)

    def test_image_as_data_uri(self, tmp_path):
        gltf = _points(TEXCOORD_0=(UVS, "f4"))
        gltf.add("images", uri=data_uri(png(_PIXELS)))
        gltf.doc["meshes"][0]["primitives"][0]["material"] = gltf.material(gltf.add("textures", source=0))
        assert np.array_equal(_read(gltf, tmp_path, ".gltf").texture, _PIXELS)

    def test_external_image_is_named_but_not_opened(self, tmp_path):
        gltf = _points(TEXCOORD_0=(UVS, "f4"))
        gltf.add("images", uri="maps/the%20skin.png")
        gltf.doc["meshes"][0]["primitives"][0]["material"] = gltf.material(gltf.add("textures", source=0))
        mesh = _read(gltf, tmp_path)
        assert (mesh.texture_name, mesh.texture) == ("maps/the skin.png", None)

    def test_several_textures_are_stacked_with_white_for_none(self, tmp_path):
        gltf = SmallGltf()
        uvs = gltf.array([[0.2, 0.2], [0.9, 0.2], [1.2, -0.1]])
        colors = [[200, 0, 0], [0, 100, 0]]
        for color, size in zip(colors, ((4, 6), (8, 2)), strict=True):
            material = gltf.image(np.full((*size, 3), color, np.uint8))
            gltf.show({"material": material}, POSITION=gltf.array(TRIANGLE), TEXCOORD_0=uvs)
        gltf.show()
        gltf.show({"material": 0}, POSITION=gltf.array(TRIANGLE), TEXCOORD_0=uvs)
        mesh = _read(gltf, tmp_path)
        assert mesh.texture.shape == (4 + 8 + 1, 6, 3)
        expected = [colors[0], colors[1], [255] * 3, colors[0]]
        assert _seen(mesh).tolist() == [[color] * 3 for color in expected]

    def test_stacked_textures_keep_coordinates(self, tmp_path):
        gltf = SmallGltf()
        pixels = [
            np.random.default_rng(n).integers(0, 256, size, np.uint8) for n, size in enumerate(((4, 6, 3), (5, 2, 3)))
        ]
        centres = [(np.array([[0, 0], [1, 3], [1, 1]]) + 0.5) / image.shape[1::-1] for image in pixels]
        for image, uvs in zip(pixels, centres, strict=True):
            gltf.show({"material": gltf.image(image)}, POSITION=gltf.array(TRIANGLE), TEXCOORD_0=gltf.array(uvs))
        expected = [image[[0, 3, 1], [0, 1, 1]].tolist() for image in pixels]
        assert _seen(_read(gltf, tmp_path)).tolist() == expected

    def test_material_with_second_coordinates_and_transform(self, tmp_path):
        gltf = _points(TEXCOORD_0=(np.zeros((3, 2)), "f4"), TEXCOORD_1=(128 * UVS, "u1"))
        transform = {"offset": [0.25, 0.5], "scale": [1 / 256, 1 / 512], "texCoord": 1}
        gltf.doc["extensionsRequired"] = ["KHR_mesh_quantization", "KHR_texture_transform"]
        texture = gltf.add("textures", source=gltf.add("images", uri="a.png"))
        material = gltf.material(texture, extensions={"KHR_texture_transform": transform})
        gltf.doc["meshes"][0]["primitives"][0]["material"] = material
        assert np.array_equal(_read(gltf, tmp_path).uvs, [[0.25, 0.5], [0.75, 0.5], [0.25, 0.25]])
        transform["rotation"] = 1
        with pytest.raises(MeshError, match="unsupported texture rotation by KHR_texture_transform"):
            _read(gltf, tmp_path)

    def test_too_large_textures_are_rejected(self, tmp_path, monkeypatch):
        gltf = SmallGltf()
        for size in ((20, 1, 3), (1, 20, 3)):
            material = gltf.image(np.zeros(size, np.uint8))
            gltf.show({"material": material}, POSITION=gltf.array(TRIANGLE), TEXCOORD_0=gltf.array(UVS))
        monkeypatch.setattr("smile_pipe.pipeline.meshes.gltf_textures.MAX_PIXELS", 420)
        assert _read(gltf, tmp_path).texture.shape == (21, 20, 3)
        monkeypatch.setattr("smile_pipe.pipeline.meshes.gltf_textures.MAX_PIXELS", 419)
        with pytest.raises(MeshError, match="textures too large: 20 x 21 pixels together; the limit is 419"):
            _read(gltf, tmp_path)

    def test_damaged_or_too_large_image_is_rejected(self, tmp_path, monkeypatch):
        gltf = SmallGltf()
        uvs = gltf.array(UVS)
        for _ in range(2):
            gltf.show({"material": gltf.image(_PIXELS)}, POSITION=gltf.array(TRIANGLE), TEXCOORD_0=uvs)
        monkeypatch.setattr("smile_pipe.pipeline.meshes.gltf.MAX_PIXELS", 47)
        with pytest.raises(MeshError, match="image 1: image too large: 6 x 4 pixels; the limit is 23"):
            _read(gltf, tmp_path)
        gltf.binary = gltf.binary.replace(b"IDAT", b"XXXX", 1)
        with pytest.raises(MeshError, match="image 0: not a readable JPEG, PNG, BMP, TIFF image"):
            _read(gltf, tmp_path)


class TestOtherFiles:
    @pytest.mark.parametrize("name", ["f.bin", "data/the buffer.bin"])
    def test_buffer_below_the_own_folder(self, tmp_path, name):
        gltf = SmallGltf()
        gltf.show()
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gltf.binary)
        assert np.array_equal(read_mesh(gltf.write(tmp_path / "f.gltf", quote(name))).vertices, TRIANGLE)

    @pytest.mark.parametrize(
        "uri", ["../f.bin", "link.bin", "http://localhost/f.bin", "file:///etc/passwd", "%2e%2e/f.bin"]
    )
    def test_buffer_outside_the_folder_is_rejected(self, tmp_path, uri):
        gltf, folder = SmallGltf(), tmp_path / "inner"
        gltf.show()
        folder.mkdir()
        (tmp_path / "f.bin").write_bytes(gltf.binary)
        (folder / "link.bin").symlink_to(tmp_path / "f.bin")
        with pytest.raises(MeshError, match="is outside the folder of the file"):
            read_mesh(gltf.write(folder / "f.gltf", uri))

    def test_missing_buffer_is_named(self, tmp_path):
        gltf = SmallGltf()
        gltf.show()
        with pytest.raises(MeshError, match=r"buffer 'gone\.bin': cannot be read: No such file"):
            read_mesh(gltf.write(tmp_path / "f.gltf", "gone.bin"))
