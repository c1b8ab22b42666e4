"""Finding samples: detection, errors, skipped files, and rules of all layouts."""

import os
from pathlib import Path

import pytest

from helpers.trees import only, table, touch
from smile_pipe.pipeline.datasets import LAYOUTS, find_samples
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles, add_neutral_scans, make_key
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.sample import KEY

NAMES = {
    "bu3dfe": ("F0001/F0001_AN01WH_F3D.wrl", "1 mesh named like F0001_AN01WH_F3D.wrl"),
    "bu4dfe": ("F001/Happy/000.wrl", "1 folder named like F001/Happy with numbered meshes"),
    "bosphorus": ("bs000/bs000_E_HAPPY_0.bnt", "1 mesh named like bs000_E_HAPPY_0.bnt"),
    "bp4d": ("F001/T1/0000.obj", "1 folder named like F001/T1 with numbered meshes"),
    "coma": (
        "FaceTalk_170725_00137_TA/bareteeth/bareteeth.000001.ply",
        "1 folder of numbered meshes in folders named like FaceTalk_170725_00137_TA",
    ),
    "facescape": ("1/models_reg/4_anger.obj", "1 mesh named like 1/models_reg/4_anger.obj"),
    "ict": (
        "FaceXModel/generic_neutral_mesh.obj",
        "generic_neutral_mesh, the generic face of ICT-FaceKit, in FaceXModel",
    ),
}


class TestDetection:
    @pytest.mark.parametrize("layout", NAMES)
    def test_each_dataset_is_detected_with_the_reason(self, tmp_path, layout):
        path, match_reason = NAMES[layout]
        found = find_samples(touch(tmp_path, path, "notes.txt"), "auto")
        assert (found.layout, found.match_reason, len(found.samples)) == (layout, match_reason, 1)
        assert find_samples(tmp_path, layout) == found

    def test_every_layout_is_distinct(self):
        assert NAMES.keys() == LAYOUTS.keys() - {"folder"}

    @pytest.mark.parametrize("layout", NAMES)
    def test_dataset_takes_precedence_over_labels_table(self, tmp_path, layout):
        path, _ = NAMES[layout]
        table(touch(tmp_path, path), f"path,subject,expression\n{path},s,contempt\n")
        assert find_samples(tmp_path, "auto").layout == layout
        assert find_samples(tmp_path, "folder").layout == "folder"
        assert only(tmp_path, "folder").expression == "contempt"

    def test_labels_table_is_detected_only_at_the_top(self, tmp_path):
        found = find_samples(table(tmp_path, "path,subject,expression\na.obj,s,HA\n"), "auto")
        assert (found.layout, found.match_reason) == ("folder", "labels.csv at its top")
        (tmp_path / "inner").mkdir()
        (tmp_path / "labels.csv").rename(tmp_path / "inner/labels.csv")
        with pytest.raises(UsageError, match="no known layout"):
            find_samples(tmp_path, "auto")

    def test_two_matching_datasets_are_both_named(self, tmp_path):
        touch(tmp_path, "BU-4DFE/F001/Happy/000.wrl", "BU-3DFE/F0001/F0001_AN01WH_F3D.wrl")
        with pytest.raises(
            UsageError, match=r"matches the layouts bu3dfe \(1 .*\) and bu4dfe \(1 .*\); choose one with `layout`"
        ):
            find_samples(tmp_path, "auto")
        assert only(tmp_path, "bu3dfe").key == "F0001_AN01WH" and only(tmp_path, "bu4dfe").key == "F001_HA"


class TestNeutralScans:
    def test_scan_gets_the_neutral_scan_of_its_subject(self, tmp_path):
        touch(tmp_path, *(f"{s}_{e}WH_F3D.wrl" for s in ("F0001", "M0002") for e in ("NE00", "HA01")))
        touch(tmp_path, "F0001_NE00WH_F2D.bmp", "F0003_HA01WH_F3D.wrl")
        neutrals = {sample.key: sample.neutral for sample in find_samples(tmp_path, "auto").samples}
        assert neutrals == {
            "F0001_HA01WH": ScanFiles("F0001_NE00WH_F3D.wrl", "F0001_NE00WH_F2D.bmp"),
            "F0001_NE00WH": None,
            "F0003_HA01WH": None,
            "M0002_HA01WH": ScanFiles("M0002_NE00WH_F3D.wrl"),
            "M0002_NE00WH": None,
        }

    def test_first_neutral_scan_by_key_is_used(self, tmp_path):
        touch(tmp_path, *(f"bs000/bs000_{name}.bnt" for name in ("E_FEAR_0", "N_N_3", "N_N_1", "N_N_2")))
        fear = find_samples(tmp_path, "auto").samples[0]
        assert fear.neutral == ScanFiles("bs000/bs000_N_N_1.bnt")
        assert fear.paths == ("bs000/bs000_E_FEAR_0.bnt", "bs000/bs000_N_N_1.bnt")

    def test_sequences_are_not_neutral_scans_and_get_none(self):
        def sample(key: str, expression: str, frame_rate: float | None) -> SampleSource:
            return SampleSource(key, "s", expression, None, (ScanFiles(f"{key}.obj"),), frame_rate)

        moving = [sample("a", "NE", 25.0), sample("b", "HA", None), sample("c", "HA", 25.0)]
        assert add_neutral_scans(moving) == moving
        with_scan = add_neutral_scans([*moving, sample("d", "NE", None)])
        assert [s.neutral for s in with_scan] == [None, ScanFiles("d.obj"), None, None]


class TestSkipped:
    def test_complete_dataset_has_no_skipped_files(self, tmp_path):
        touch(tmp_path, *(f"F0001/F0001_AN03BL_{end}" for end in ("F3D.wrl", "F2D.bmp", "F3D.bnd")))
        assert find_samples(tmp_path, "auto").skipped == ()

    def test_files_are_counted_by_name_ending_most_frequent_first(self, tmp_path):
        scans = [f"F0001/F0001_AN0{level}WH" for level in (1, 2, 3)]
        touch(tmp_path, *(f"{scan}_{end}.wrl" for scan in scans for end in ("F3D", "RAW")))
        touch(tmp_path, "README", "F0001/notes.txt", "F0001/more.txt", ".DS_Store")
        assert find_samples(tmp_path, "auto").skipped == (
            "3 files *_RAW.wrl",
            "2 files *.txt",
            "2 files without a suffix",
        )

    def test_materials_and_buffers_of_used_meshes_are_not_skipped(self, tmp_path):
        rows = "".join(f"{path},s,NE\n" for path in ("a/x.obj", "b/x.gltf", "c/x.ply"))
        table(touch(tmp_path, "a/x.obj", "b/x.gltf", "c/x.ply"), f"path,subject,expression\n{rows}")
        touch(tmp_path, "a/x.obj.mtl", "a/skin.MTL", "b/data.bin", "x.mtl")
        assert find_samples(tmp_path, "auto").skipped == ("1 file *.mtl",)
        touch(tmp_path, "b/x.mtl", "a/x.bin", "c/x.mtl", "c/x.bin")
        assert find_samples(tmp_path, "auto").skipped == ("3 files *.mtl", "2 files *.bin")

    def test_material_of_a_skipped_mesh_is_skipped(self, tmp_path):
        touch(tmp_path, "F001/Happy/000.wrl", "copy/a.obj", "copy/a.mtl")
        assert find_samples(tmp_path, "auto").skipped == ("copy/: 1 mesh, 1 other file",)

    def test_unrecognized_folder_with_meshes_is_named(self, tmp_path):
        touch(tmp_path, "data/F001/Happy/000.wrl", *(f"data/New folder/{n}.wrl" for n in range(24)))
        touch(tmp_path, "data/New folder/cache/a.jpg", "data/F001/Laugh/000.wrl", "other/deep/inside/x.obj")
        assert find_samples(tmp_path, "auto").skipped == (
            "data/F001/Laugh/: 1 mesh",
            "data/New folder/: 24 meshes, 1 other file",
            "other/: 1 mesh",
        )

    def test_long_summary_is_truncated_with_a_count(self, tmp_path):
        touch(tmp_path, "F001/Happy/000.wrl", *(f"copy {n}/a.obj" for n in range(9)), *(f"a.x{n}" for n in range(7)))
        skipped = find_samples(tmp_path, "auto").skipped
        assert skipped[:6] == (*(f"copy {n}/: 1 mesh" for n in range(5)), "and 4 more folders with meshes")
        assert skipped[6:] == (*(f"1 file *.x{n}" for n in range(5)), "and 2 more kinds of files")

    def test_meshes_without_a_row_are_skipped_but_not_the_table(self, tmp_path):
        table(touch(tmp_path, "a.obj", "b.obj"), "expression,path,subject\nSU,a.obj,s\n")
        assert find_samples(tmp_path, "auto").skipped == ("1 file *.obj",)

    def test_control_characters_in_names_are_escaped(self, tmp_path):
        touch(tmp_path, "F001/Happy/000.wrl", "\x1b[2J/x.obj")
        assert find_samples(tmp_path, "auto").skipped == (r"\x1b[2J/: 1 mesh",)


class TestNames:
    def test_names_with_spaces_and_any_script(self, tmp_path):
        touch(tmp_path, "Gesichter – köln/表情 1/F0001_AN01WH_F3D.wrl", "Gesichter – köln/表情 1/F0001_AN01WH_F2D.bmp")
        assert only(tmp_path).paths == tuple(
            f"Gesichter – köln/表情 1/F0001_AN01WH_{end}" for end in ("F3D.wrl", "F2D.bmp")
        )

    def test_name_that_is_not_utf8_skips_only_its_sample(self, tmp_path):
        touch(tmp_path, "F0001_AN01WH_F3D.wrl")
        folder = os.fsencode(tmp_path) + b"/\xff"
        os.mkdir(folder)
        Path(os.fsdecode(folder), "F0002_AN01WH_F3D.wrl").touch()
        found = find_samples(tmp_path, "auto")
        assert [sample.key for sample in found.samples] == ["F0001_AN01WH"]
        assert found.skipped == (r"\xff/F0002_AN01WH_F3D.wrl: name is not UTF-8; rename the file",)

    def test_directory_with_only_such_names_is_rejected(self, tmp_path):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/F0002_AN01WH_F3D\xff.wrl")).touch()
        with pytest.raises(
            UsageError, match=r"no file name is UTF-8, e.g. F0002_AN01WH_F3D\\xff.wrl; rename the files"
        ):
            find_samples(tmp_path, "auto")
        touch(tmp_path, "notes.txt")
        with pytest.raises(UsageError, match=r"no known layout .*skipped names that are not UTF-8: 1, e.g. F0002"):
            find_samples(tmp_path, "auto")

    @pytest.mark.parametrize("name", ["anna-smile_1", "a" * 80, "FaceTalk_170725_00137_TA"])
    def test_plain_name_is_its_own_key(self, name):
        assert make_key(name) == name

    def test_other_characters_become_a_dash(self):
        assert make_key("anna/smile.one (2)") == "anna-smile-one-2-"

    @pytest.mark.parametrize(
        "names", [("Zoë", "Zoé"), ("表", "情"), ("e\u0301", "é"), ("a" * 81 + "b", "a" * 81 + "c")]
    )
    def test_names_with_lost_characters_have_different_keys(self, names):
        keys = [make_key(name) for name in names]
        assert keys[0] != keys[1] and all(KEY.fullmatch(key) for key in keys)
        assert keys == [make_key(name) for name in names]


class TestErrors:
    def test_missing_directory_file_and_empty_directory(self, tmp_path):
        with pytest.raises(UsageError, match=r"nowhere: no such directory"):
            find_samples(tmp_path / "nowhere", "auto")
        with pytest.raises(UsageError, match=r"a\.obj: no such directory"):
            find_samples(touch(tmp_path, "a.obj") / "a.obj", "auto")
        (tmp_path / "links").mkdir()
        (tmp_path / "links/F001").symlink_to(tmp_path)
        with pytest.raises(
            UsageError, match=r"links: no files but links to folders, e\.g\. F001; they are not followed"
        ):
            find_samples(tmp_path / "links", "auto")
        touch(tmp_path, "links/notes.txt")
        with pytest.raises(UsageError, match=r"no known layout .*skipped links to folders: 1, e\.g\. F001"):
            find_samples(tmp_path / "links", "auto")
        (tmp_path / "empty/folder/in/folder").mkdir(parents=True)
        with pytest.raises(UsageError, match="is empty"):
            find_samples(tmp_path / "empty", "auto")

    def test_unknown_layout_lists_the_known_ones(self, tmp_path):
        known = "auto, bu3dfe, bu4dfe, bosphorus, bp4d, coma, facescape, ict, folder"
        with pytest.raises(UsageError, match=f"layout florence: unknown; choose {known}"):
            find_samples(tmp_path, "florence")

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layout_without_samples(self, tmp_path, layout):
        with pytest.raises(UsageError, match=f"no samples in the layout {layout}"):
            find_samples(touch(tmp_path, "a.obj"), layout)

    def test_unknown_layout_suggests_a_labels_table(self, tmp_path):
        with pytest.raises(UsageError, match=r"no known layout .* add a labels\.csv to use any tree of meshes"):
            find_samples(touch(tmp_path, "a.obj"), "auto")

    def test_two_files_with_one_key_are_both_named(self, tmp_path):
        touch(tmp_path, "a/F0001_AN01WH_F3D.wrl", "b/F0001_AN01WH_F3D.obj")
        with pytest.raises(UsageError, match=r"key F0001_AN01WH: a/F0001_AN01WH_F3D\.wrl and b/F0001_AN01WH_F3D\.obj"):
            find_samples(tmp_path, "auto")

    def test_paths_that_map_to_one_key(self, tmp_path):
        table(tmp_path, "path,subject,expression\na/b.obj,s,HA\na-b.obj,s,HA\n")
        with pytest.raises(UsageError, match=r"key a-b: a/b\.obj and a-b\.obj"):
            find_samples(tmp_path, "auto")

    def test_unreadable_folder_is_an_error(self, tmp_path, monkeypatch):
        touch(tmp_path, "F0001/F0001_AN01WH_F3D.wrl", "F0002/F0002_AN01WH_F3D.wrl")
        scandir = os.scandir

        def denied(path):
            # Permissions do not bind the superuser, who may run the tests.
            if str(path).endswith("F0002"):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", denied)
        with pytest.raises(UsageError, match="F0002: cannot be read"):
            find_samples(tmp_path, "auto")

    def test_too_many_files(self, tmp_path, monkeypatch):
        # Two files of 18 letters fit, as 100 bytes are counted for each in addition.
        monkeypatch.setattr("smile_pipe.pipeline.datasets.file_index.MAX_BYTES", 2 * 118)
        assert find_samples(touch(tmp_path, "F001/Happy/000.wrl", "F001/Happy/001.wrl"), "auto").layout == "bu4dfe"
        with pytest.raises(UsageError, match="too many files: a list of them takes over 0 MB"):
            find_samples(touch(tmp_path, "F001/Happy/002.wrl"), "auto")

    def test_links_to_folders_are_not_followed_and_links_to_files_are(self, tmp_path):
        touch(tmp_path / "elsewhere", "F001/Happy/000.wrl", "F001/Happy/001.wrl")
        touch(tmp_path / "data", "F001/Happy/000.wrl")
        (tmp_path / "data/F002").symlink_to(tmp_path / "elsewhere/F001")
        (tmp_path / "data/F001/Happy/001.wrl").symlink_to(tmp_path / "elsewhere/F001/Happy/001.wrl")
        assert [scan.mesh for scan in only(tmp_path / "data").frames] == ["F001/Happy/000.wrl", "F001/Happy/001.wrl"]
        assert find_samples(tmp_path / "data", "auto").skipped == (
            "F002: a link to a folder, which is not followed; copy it",
        )
