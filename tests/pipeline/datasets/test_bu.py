"""BU-3DFE and BU-4DFE: samples and labels."""

import pytest

from helpers.trees import only, touch
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.meshes.reader import SUFFIXES
from smile_pipe.shards.errors import UsageError


class TestBu3dfe:
    def test_scan_with_texture_and_landmarks(self, tmp_path):
        touch(tmp_path, *(f"F0001/F0001_AN03BL_{end}" for end in ("F3D.wrl", "F2D.bmp", "F3D.bnd")))
        files = (f"F0001/F0001_AN03BL_{end}" for end in ("F3D.wrl", "F2D.bmp", "F3D.bnd"))
        assert only(tmp_path) == SampleSource(
            key="F0001_AN03BL",
            subject="F0001",
            expression="AN",
            level=3,
            frames=(ScanFiles(*files),),
            labels={"sex": "F", "ancestry": "BL"},
        )

    @pytest.mark.parametrize("suffix", [*SUFFIXES, ".WRL", ".Obj"])
    def test_any_mesh_format(self, tmp_path, suffix):
        touch(tmp_path, f"M0044_HA01AE_F3D{suffix}", "M0044_HA01AE_F2D.png", "M0044_HA01AE_F3D.bnd")
        sample = only(tmp_path)
        assert sample.key == "M0044_HA01AE"
        assert sample.paths == (f"M0044_HA01AE_F3D{suffix}", "M0044_HA01AE_F2D.png", "M0044_HA01AE_F3D.bnd")

    @pytest.mark.parametrize("folder", ["", "F0001/", "BU3DFE/data/F0001/"])
    def test_any_depth(self, tmp_path, folder):
        touch(tmp_path, f"{folder}F0001_SU04IN_F3D.wrl")
        assert only(tmp_path).paths == (f"{folder}F0001_SU04IN_F3D.wrl",)

    def test_level_00_is_no_level(self, tmp_path):
        touch(tmp_path, "F0001_NE00WH_F3D.wrl")
        assert (only(tmp_path).expression, only(tmp_path).level) == ("NE", None)

    @pytest.mark.parametrize(
        ("files", "texture", "landmarks"),
        [
            ((), None, None),
            (("F2D.jpg", "F2D.bmp"), "F2D.bmp", None),
            (("F2D.jpeg",), "F2D.jpeg", None),
            (("F3D_lmk68.txt",), None, "F3D_lmk68.txt"),
            (("F3D_lmk68.txt", "F3D.bnd"), None, "F3D.bnd"),
        ],
    )
    def test_texture_and_landmark_formats_and_missing_files(self, tmp_path, files, texture, landmarks):
        touch(tmp_path, "F0001_AN01WH_F3D.wrl", *(f"F0001_AN01WH_{name}" for name in files))
        (scan,) = only(tmp_path).frames
        assert scan.texture == (texture and f"F0001_AN01WH_{texture}")
        assert scan.landmarks == (landmarks and f"F0001_AN01WH_{landmarks}")

    def test_texture_of_another_scan_or_folder_is_not_used(self, tmp_path):
        touch(tmp_path, "a/F0001_AN01WH_F3D.wrl", "b/F0001_AN01WH_F2D.bmp", "a/F0001_AN02WH_F2D.bmp")
        assert only(tmp_path).frames[0].texture is None

    @pytest.mark.parametrize(
        "name",
        [
            "F0001_AN01WH_RAW.wrl",
            "F0001_AN01WH_F3D.txt",
            "F0001_AN01WH_F3D.bnd",
            "F0001_AN01WH_F2D.bmp",
            "F001_AN01WH_F3D.wrl",
            "X0001_AN01WH_F3D.wrl",
            "F0001_XX01WH_F3D.wrl",
            "F0001_AN01XX_F3D.wrl",
            "F0001_AN1WH_F3D.wrl",
            "F0001_AN01WH_F3D_copy.wrl",
            "F0001_AN01WH_F3D.old.wrl",
            "my_F0001_AN01WH_F3D.wrl",
            "._F0001_AN01WH_F3D.wrl",
        ],
    )
    def test_other_files_are_reported_as_skipped(self, tmp_path, name):
        touch(tmp_path, name, "F0009_HA04WH_F3D.wrl")
        assert only(tmp_path).key == "F0009_HA04WH"
        assert len(find_samples(tmp_path, "auto").skipped) == 1

    def test_samples_are_sorted_by_key(self, tmp_path):
        touch(
            tmp_path,
            *(f"{folder}/{s}_HA01WH_F3D.wrl" for folder, s in (("a", "M0002"), ("b", "F0009"), ("c", "F0001"))),
        )
        assert [sample.subject for sample in find_samples(tmp_path, "auto").samples] == ["F0001", "F0009", "M0002"]


class TestBu4dfe:
    def test_folder_of_frames_is_a_sequence(self, tmp_path):
        names = [f"F001/Happy/{number:03d}" for number in range(3)]
        touch(tmp_path, *(f"{name}{suffix}" for name in names for suffix in (".wrl", ".jpg", ".bnd")))
        assert only(tmp_path) == SampleSource(
            key="F001_HA",
            subject="F001",
            expression="HA",
            level=None,
            frames=tuple(ScanFiles(f"{name}.wrl", f"{name}.jpg", f"{name}.bnd") for name in names),
            frame_rate=25.0,
            labels={"sex": "F"},
        )

    def test_the_six_folders_are_the_six_expressions(self, tmp_path):
        words = ["Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise"]
        touch(tmp_path, *(f"data/M040/{word}/000.wrl" for word in words))
        samples = find_samples(tmp_path, "auto").samples
        assert [sample.expression for sample in samples] == ["AN", "DI", "FE", "HA", "SA", "SU"]

    def test_frames_are_sorted_by_number(self, tmp_path):
        touch(tmp_path, *(f"F001/Sad/{number}.obj" for number in (10, 9, 100, 1)))
        assert [scan.mesh for scan in only(tmp_path).frames] == [f"F001/Sad/{n}.obj" for n in (1, 9, 10, 100)]
        assert only(tmp_path).numbers == (0, 8, 9, 99)

    def test_landmarks_in_a_separate_tree(self, tmp_path):
        touch(tmp_path, "data/F002/Happy/000.wrl", "data/F002/Happy/001.wrl")
        touch(tmp_path, *(f"more/BU4DFE_BND_V1.1/{s}/{w}/000.bnd" for s in ("F001", "F002") for w in ("Happy", "Sad")))
        found = [scan.landmarks for scan in only(tmp_path).frames]
        assert found == ["more/BU4DFE_BND_V1.1/F002/Happy/000.bnd", None]

    def test_landmarks_next_to_the_mesh_take_precedence(self, tmp_path):
        touch(tmp_path, "F001/Happy/000.wrl", "F001/Happy/000_lmk68.txt", "BU4DFE_BND_V1.1/F001/Happy/000.bnd")
        assert only(tmp_path).frames[0].landmarks == "F001/Happy/000_lmk68.txt"
        assert find_samples(tmp_path, "auto").skipped == ("1 file *.bnd",)

    @pytest.mark.parametrize("twin", ["000.obj", "0.wrl"])
    def test_two_meshes_for_one_frame_are_rejected(self, tmp_path, twin):
        touch(tmp_path, "F001/Happy/000.wrl", f"F001/Happy/{twin}")
        with pytest.raises(
            UsageError, match=r"two meshes have the same frame number: F001/Happy/0\S* and F001/Happy/0\S*"
        ):
            find_samples(tmp_path, "auto")

    @pytest.mark.parametrize(
        "name", ["F001/Bored/000.wrl", "F0001/Happy/000.wrl", "F001/Happy/a.wrl", "F001/Happy/x/1.wrl"]
    )
    def test_other_names_are_skipped(self, tmp_path, name):
        touch(tmp_path, name, "F009/Fear/000.wrl")
        assert only(tmp_path).key == "F009_FE"
