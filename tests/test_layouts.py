"""Layouts: which files are samples, with which labels, and which directories are refused."""

import os
from pathlib import Path

import pytest

from pipeline.layouts import find_samples
from pipeline.layouts.bu3dfe import Bu3dfe
from pipeline.layouts.layout import ScanSource
from pipeline.meshes.reader import SUFFIXES
from shards.errors import UsageError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(root: Path, text: str) -> Path:
    (root / "labels.csv").write_text(text, encoding="utf-8")
    return root


def only(root: Path, layout: str = "auto") -> ScanSource:
    (sample,) = find_samples(root, layout)[1]
    return sample


class TestBu3dfe:
    def test_a_scan_is_told_by_its_name_with_its_texture_and_landmarks(self, tmp_path):
        touch(tmp_path, *(f"F0001/F0001_AN03BL_{end}" for end in ("F3D.wrl", "F2D.bmp", "F3D.bnd")))
        assert only(tmp_path) == ScanSource(
            key="F0001_AN03BL",
            subject="F0001",
            expression="AN",
            level=3,
            mesh="F0001/F0001_AN03BL_F3D.wrl",
            texture="F0001/F0001_AN03BL_F2D.bmp",
            landmarks="F0001/F0001_AN03BL_F3D.bnd",
            labels={"sex": "F", "ancestry": "BL"},
        )

    @pytest.mark.parametrize("suffix", [*SUFFIXES, ".WRL", ".Obj"])
    def test_any_mesh_format_may_stand_under_the_name(self, tmp_path, suffix):
        touch(tmp_path, f"M0044_HA01AE_F3D{suffix}", "M0044_HA01AE_F2D.png", "M0044_HA01AE_F3D.bnd")
        sample = only(tmp_path)
        assert (sample.mesh, sample.key) == (f"M0044_HA01AE_F3D{suffix}", "M0044_HA01AE")
        assert sample.files == (sample.mesh, "M0044_HA01AE_F2D.png", "M0044_HA01AE_F3D.bnd")

    @pytest.mark.parametrize("folder", ["", "F0001/", "BU3DFE/data/F0001/"])
    def test_at_any_depth(self, tmp_path, folder):
        touch(tmp_path, f"{folder}F0001_SU04IN_F3D.wrl")
        assert only(tmp_path).mesh == f"{folder}F0001_SU04IN_F3D.wrl"

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
    def test_a_texture_or_landmarks_may_be_of_several_kinds_or_missing(self, tmp_path, files, texture, landmarks):
        touch(tmp_path, "F0001_AN01WH_F3D.wrl", *(f"F0001_AN01WH_{name}" for name in files))
        sample = only(tmp_path)
        assert sample.texture == (texture and f"F0001_AN01WH_{texture}")
        assert sample.landmarks == (landmarks and f"F0001_AN01WH_{landmarks}")

    def test_the_texture_of_another_scan_or_folder_is_not_taken(self, tmp_path):
        touch(tmp_path, "a/F0001_AN01WH_F3D.wrl", "b/F0001_AN01WH_F2D.bmp", "a/F0001_AN02WH_F2D.bmp")
        assert only(tmp_path).texture is None

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
            "my_F0001_AN01WH_F3D.wrl",
            "._F0001_AN01WH_F3D.wrl",
        ],
    )
    def test_everything_else_is_left_out(self, tmp_path, name):
        touch(tmp_path, name, "F0009_HA04WH_F3D.wrl")
        assert only(tmp_path).key == "F0009_HA04WH"

    def test_samples_come_in_the_order_of_their_keys(self, tmp_path):
        touch(
            tmp_path,
            *(f"{folder}/{s}_HA01WH_F3D.wrl" for folder, s in (("a", "M0002"), ("b", "F0009"), ("c", "F0001"))),
        )
        assert [sample.subject for sample in find_samples(tmp_path, "auto")[1]] == ["F0001", "F0009", "M0002"]


class TestFolder:
    def test_a_row_of_the_table_is_a_sample(self, tmp_path):
        table(
            tmp_path,
            "path,subject,expression,level,texture,landmarks,age,site\n"
            "anna/smile.one.ply,anna,Happy,2,anna/smile.png,anna/smile.lm3,31,Köln\n",
        )
        assert find_samples(tmp_path, "folder") == (
            "folder",
            [
                ScanSource(
                    key="anna-smile-one",
                    subject="anna",
                    expression="HA",
                    level=2,
                    mesh="anna/smile.one.ply",
                    texture="anna/smile.png",
                    landmarks="anna/smile.lm3",
                    labels={"age": "31", "site": "Köln"},
                )
            ],
        )

    def test_only_three_columns_are_needed_and_meshes_without_a_row_are_no_samples(self, tmp_path):
        table(touch(tmp_path, "a.obj", "b.obj"), "expression,path,subject\nSU,a.obj,s\n")
        assert only(tmp_path) == ScanSource(key="a", subject="s", expression="SU", level=None, mesh="a.obj")

    @pytest.mark.parametrize(
        ("word", "code"),
        [("HA", "HA"), ("ha", "HA"), (" Joy ", "HA"), ("angry", "AN"), ("Neutral", "NE"), ("Contempt", "contempt")],
    )
    def test_expressions_may_be_codes_or_words(self, tmp_path, word, code):
        table(tmp_path, f"path,subject,expression\na.obj,s,{word}\n")
        assert only(tmp_path).expression == code

    @pytest.mark.parametrize(("written", "level"), [("3", 3), (" 2 ", 2), ("", None), ("0", None)])
    def test_a_level_is_a_whole_number_or_nothing(self, tmp_path, written, level):
        table(tmp_path, f"path,subject,expression,level\na.obj,s,HA,{written}\n")
        assert only(tmp_path).level == level

    @pytest.mark.parametrize("level", ["high", "1.5", "-1"])
    def test_any_other_level_is_refused_with_its_line(self, tmp_path, level):
        table(tmp_path, f"path,subject,expression,level\na.obj,s,HA,1\n\nb.obj,s,HA,{level}\n")
        with pytest.raises(UsageError, match=rf"labels\.csv, line 4: level '{level}' is not a whole number"):
            find_samples(tmp_path, "auto")

    @pytest.mark.parametrize("empty", ["", " ", "   "])
    def test_an_empty_texture_is_none(self, tmp_path, empty):
        table(tmp_path, f"path,subject,expression,texture,landmarks\na.obj,s,HA,{empty},{empty}\n")
        assert only(tmp_path).files == ("a.obj",)

    def test_a_short_row_has_empty_labels_and_a_long_one_is_cut(self, tmp_path):
        table(tmp_path, "path,subject,expression,texture,age\na.obj,s,HA\nb.obj,s,HA,b.png,31,more,still more\n")
        a, b = find_samples(tmp_path, "auto")[1]
        assert (a.texture, dict(a.labels)) == (None, {"age": ""}) and (b.texture, dict(b.labels)) == (
            "b.png",
            {"age": "31"},
        )

    @pytest.mark.parametrize(
        ("written", "path"), [("./a//b.obj", "a/b.obj"), (r"a\b.obj", "a/b.obj"), (" a/b.obj ", "a/b.obj")]
    )
    def test_paths_are_written_in_one_way(self, tmp_path, written, path):
        table(tmp_path, f"path,subject,expression,texture\n{written},s,HA,{written}\n")
        assert only(tmp_path).mesh == only(tmp_path).texture == path

    @pytest.mark.parametrize("column", ["path", "texture", "landmarks"])
    @pytest.mark.parametrize(
        "path", ["../a.obj", "/etc/passwd", "a/../../b.obj", r"..\a.obj", r"\etc\passwd", " ../a.obj"]
    )
    def test_a_path_that_leads_out_of_the_directory_is_refused(self, tmp_path, column, path):
        row = {"path": "a.obj", "subject": "s", "expression": "HA", "texture": "", "landmarks": "", column: path}
        table(tmp_path, ",".join(row) + "\n" + ",".join(row.values()) + "\n")
        with pytest.raises(UsageError, match=r"labels\.csv, line 2: .* leads out of the data directory"):
            find_samples(tmp_path, "auto")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "path,subject,expression\n",
            "path,subject\na.obj,s\n",
            "path;subject;expression\na.obj;s;HA\n",
            "a.obj,s,HA\nb.obj,s,HA\n",
        ],
    )
    def test_a_table_without_the_columns_or_rows_is_refused(self, tmp_path, text):
        with pytest.raises(UsageError, match=r"labels\.csv: needs rows with the columns path, subject, expression"):
            find_samples(table(tmp_path, text), "auto")

    @pytest.mark.parametrize("row", [",s,HA", "a.obj,,HA", "a.obj,s,", "a.obj,s", "a.obj, ,HA"])
    def test_a_row_that_does_not_say_all_three_is_refused(self, tmp_path, row):
        with pytest.raises(UsageError, match=r"line 2: path, subject and expression must all be given"):
            find_samples(table(tmp_path, f"path,subject,expression\n{row}\n"), "auto")

    def test_a_table_that_is_not_utf8_is_refused_and_one_with_a_byte_order_mark_is_read(self, tmp_path):
        (tmp_path / "labels.csv").write_bytes("path,subject,expression\na.obj,Zoë,HA\n".encode("latin-1"))
        with pytest.raises(UsageError, match="cannot be read as a CSV table"):
            find_samples(tmp_path, "auto")
        (tmp_path / "labels.csv").write_bytes("path,subject,expression\r\na.obj,Zoë,HA\r\n".encode("utf-8-sig"))
        assert only(tmp_path).subject == "Zoë"


class TestDetection:
    def test_bu3dfe_names_go_before_a_labels_table(self, tmp_path):
        table(touch(tmp_path, "F0001_AN01WH_F3D.wrl"), "path,subject,expression\nF0001_AN01WH_F3D.wrl,s,HA\n")
        assert find_samples(tmp_path, "auto")[0] == "bu3dfe"
        assert find_samples(tmp_path, "folder") == ("folder", [only(tmp_path, "folder")])
        assert only(tmp_path, "folder").expression == "HA"

    def test_a_labels_table_makes_a_folder_and_only_at_the_top(self, tmp_path):
        assert find_samples(table(tmp_path, "path,subject,expression\na.obj,s,HA\n"), "auto")[0] == "folder"
        (tmp_path / "inner").mkdir()
        (tmp_path / "labels.csv").rename(tmp_path / "inner/labels.csv")
        with pytest.raises(UsageError, match="no known layout"):
            find_samples(tmp_path, "auto")

    def test_two_layouts_that_fit_are_both_named(self, tmp_path, monkeypatch):
        class Twin(Bu3dfe):
            name = "twin"

        monkeypatch.setattr("pipeline.layouts._DATASETS", (Bu3dfe(), Twin()))
        with pytest.raises(UsageError, match="looks like bu3dfe and twin; say which with --layout"):
            find_samples(touch(tmp_path, "F0001_AN01WH_F3D.wrl"), "auto")


class TestRefusing:
    def test_a_directory_that_is_missing_or_a_file_or_empty(self, tmp_path):
        with pytest.raises(UsageError, match=r"nowhere: no such directory"):
            find_samples(tmp_path / "nowhere", "auto")
        with pytest.raises(UsageError, match=r"a\.obj: no such directory"):
            find_samples(touch(tmp_path, "a.obj") / "a.obj", "auto")
        (tmp_path / "empty/folder/in/folder").mkdir(parents=True)
        with pytest.raises(UsageError, match="is empty"):
            find_samples(tmp_path / "empty", "auto")

    def test_an_unknown_layout_with_the_known_ones(self, tmp_path):
        with pytest.raises(UsageError, match="--layout bosphorus: unknown; choose auto, bu3dfe, folder"):
            find_samples(tmp_path, "bosphorus")

    @pytest.mark.parametrize("layout", ["bu3dfe", "folder"])
    def test_a_layout_that_does_not_fit(self, tmp_path, layout):
        with pytest.raises(UsageError, match=f"holds nothing in the layout {layout}"):
            find_samples(touch(tmp_path, "a.obj"), layout)

    def test_files_of_no_layout_with_a_way_out(self, tmp_path):
        with pytest.raises(UsageError, match=r"no known layout .* a labels\.csv makes any tree of meshes one"):
            find_samples(touch(tmp_path, "a.obj"), "auto")

    def test_two_files_that_give_one_key_are_both_named(self, tmp_path):
        touch(tmp_path, "a/F0001_AN01WH_F3D.wrl", "b/F0001_AN01WH_F3D.obj")
        with pytest.raises(UsageError, match="key F0001_AN01WH: ") as error:
            find_samples(tmp_path, "auto")
        assert "a/F0001_AN01WH_F3D.wrl" in str(error.value) and "b/F0001_AN01WH_F3D.obj" in str(error.value)

    def test_two_paths_that_differ_only_in_signs_that_a_key_has_not(self, tmp_path):
        table(tmp_path, "path,subject,expression\na/b.obj,s,HA\na-b.obj,s,HA\n")
        with pytest.raises(UsageError, match=r"key a-b: a/b\.obj and a-b\.obj"):
            find_samples(tmp_path, "auto")

    def test_a_name_too_long_for_a_key(self, tmp_path):
        with pytest.raises(UsageError, match="a key has at most 80 letters"):
            find_samples(table(tmp_path, f"path,subject,expression\n{'x' * 81}.obj,s,HA\n"), "auto")

    def test_a_folder_in_it_that_cannot_be_read_rather_than_losing_its_samples(self, tmp_path, monkeypatch):
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

    def test_a_path_that_is_not_utf8(self, tmp_path):
        folder = os.fsencode(tmp_path) + b"/\xff"
        os.mkdir(folder)
        Path(os.fsdecode(folder), "F0001_AN01WH_F3D.wrl").touch()
        with pytest.raises(UsageError, match="is not UTF-8; rename it") as error:
            find_samples(tmp_path, "auto")
        assert str(error.value).encode()
