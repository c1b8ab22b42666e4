"""Bosphorus, BP4D, CoMA, FaceScape and ICT-FaceKit: samples and labels."""

import pytest

from helpers.trees import only, touch
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.shards.errors import UsageError


def keys(root) -> list[str]:
    return [sample.key for sample in find_samples(root, "auto").samples]


class TestBosphorus:
    def test_scan_with_texture_and_3d_landmarks(self, tmp_path):
        stem = "bs007/bs007_E_HAPPY_0"
        touch(tmp_path, *(f"{stem}.{suffix}" for suffix in ("bnt", "png", "lm2", "lm3")))
        assert only(tmp_path) == SampleSource(
            key="bs007_E_HAPPY_0",
            subject="bs007",
            expression="HA",
            level=None,
            frames=(ScanFiles(f"{stem}.bnt", f"{stem}.png", f"{stem}.lm3"),),
        )
        assert find_samples(tmp_path, "auto").skipped == ("1 file *.lm2",)

    @pytest.mark.parametrize(
        ("name", "expression", "units"),
        [
            ("E_ANGER_0", "AN", None),
            ("E_SADNESS_1", "SA", None),
            ("N_N_3", "NE", None),
            ("LFAU_12_0", "au12", {"AU12": 1.0}),
            ("UFAU_4_0", "au4", {"AU4": 1.0}),
            ("LFAU_12LW_0", "au12lw", {"AU12": 0.5}),
            ("LFAU_12L_0", "au12l", {"AU12": 0.5}),
            ("CAU_A12A34_0", "au12_au34", {"AU12": 1.0, "AU34": 1.0}),
            ("CAU_A26A12lw_0", "au26_au12lw", {"AU26": 1.0, "AU12": 0.5}),
        ],
    )
    def test_expression_and_action_units_from_the_name(self, tmp_path, name, expression, units):
        sample = only(touch(tmp_path, f"bs000/bs000_{name}.bnt"))
        assert (sample.expression, sample.action_units, sample.level) == (expression, units, None)

    @pytest.mark.parametrize("name", ["CR_RD_0", "PR_D_0", "YR_R10_0", "O_EYE_0", "E_BOREDOM_0", "CAU_12x_0", "N_X_0"])
    def test_poses_and_occlusions_are_reported_as_skipped(self, tmp_path, name):
        touch(tmp_path, f"bs000/bs000_{name}.bnt", "bs000/bs000_N_N_0.bnt")
        assert keys(tmp_path) == ["bs000_N_N_0"]
        assert find_samples(tmp_path, "auto").skipped == ("1 file *.bnt",)


class TestBp4d:
    def test_task_is_a_sequence_of_its_elicited_expression(self, tmp_path):
        touch(tmp_path, *(f"F001/T1/{n:04d}.{suffix}" for n in (10, 9) for suffix in ("obj", "jpg")))
        assert only(tmp_path) == SampleSource(
            key="F001_T1",
            subject="F001",
            expression="HA",
            level=None,
            frames=tuple(ScanFiles(f"F001/T1/{n:04d}.obj", f"F001/T1/{n:04d}.jpg") for n in (9, 10)),
            frame_rate=25.0,
            labels={"sex": "F", "task": "T1"},
        )

    def test_missing_frames_leave_gaps(self, tmp_path):
        touch(tmp_path, *(f"F001/T1/{n:04d}.obj" for n in (7, 3, 40)))
        assert only(tmp_path).numbers == (0, 4, 37)

    def test_the_eight_tasks_and_numbers_of_three_digits(self, tmp_path):
        touch(tmp_path, *(f"3D/M018/T{task}/{'000' if task % 2 else '0000'}.obj" for task in range(1, 10)))
        expressions = [sample.expression for sample in find_samples(tmp_path, "auto").samples]
        assert expressions == ["HA", "SA", "SU", "embarrassment", "FE", "pain", "AN", "DI"]

    @staticmethod
    def coded(root, text: str):
        touch(root, "F001/T1/0000.obj", "AUCoding/AU_OCC/F001_T1.csv")
        (root / "AUCoding/AU_OCC/F001_T1.csv").write_text(text)
        return root

    def test_action_unit_is_its_share_of_coded_frames(self, tmp_path):
        text = "0,1,12,99\n2400,0,1,9\n2401,1,1,9\n2402,9,0,9\n2403,1,0,9\n2404,0,9,9\n"
        sample = only(self.coded(tmp_path, text))
        assert sample.action_units == {"AU1": 0.5, "AU12": 0.5}
        assert sample.paths == ("F001/T1/0000.obj",) and sample.label_files == ("AUCoding/AU_OCC/F001_T1.csv",)
        assert find_samples(tmp_path, "auto").skipped == ()

    def test_table_of_another_encoding_or_of_another_kind(self, tmp_path):
        self.coded(tmp_path, "")
        (table,) = tmp_path.rglob("F001_T1.csv")
        table.write_bytes("frame,1,2\r7,0,1\r8,1,1\r".encode("utf-16"))
        assert only(tmp_path).action_units == {"AU1": 0.5, "AU2": 1.0}
        table.write_bytes(b"<!doctype html>")
        with pytest.raises(UsageError, match=r"F001_T1\.csv: is an HTML page"):
            find_samples(tmp_path, "auto")

    def test_table_without_codes_gives_no_action_units(self, tmp_path):
        assert only(self.coded(tmp_path, "0,1\n2400,9\n")).action_units is None

    def test_task_without_table_and_table_without_task(self, tmp_path):
        touch(tmp_path, "F001/T2/0000.obj", "AUCoding/AU_OCC/F001_T1.csv")
        assert only(tmp_path).action_units is None
        assert find_samples(tmp_path, "auto").skipped == ("1 file *_T1.csv",)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("frame,1,12\n1,0,1\n2,0,5\n", "line 3: invalid code of an action unit; use 0, 1, or 9"),
            ("frame,1\n1,0,1\n", "line 2: invalid code of an action unit"),
            ("frame,smile\n1,0\n", "invalid first row: 'smile' is not an action unit"),
            ("frame,1\n1,\xff\n", "cannot be read as a CSV table|invalid code"),
        ],
    )
    def test_invalid_table_is_rejected(self, tmp_path, text, problem):
        with pytest.raises(UsageError, match=rf"F001_T1\.csv.*({problem})"):
            find_samples(self.coded(tmp_path, text), "auto")

    def test_too_large_table_is_rejected(self, tmp_path, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.datasets.bp4d._MAX_BYTES", 20)
        with pytest.raises(UsageError, match=r"F001_T1\.csv: file too large: over"):
            find_samples(self.coded(tmp_path, "frame,1\n" + "1,0\n" * 4), "auto")


class TestComa:
    def test_folder_name_is_the_expression(self, tmp_path):
        folder = "FaceTalk_170725_00137_TA/bareteeth"
        touch(tmp_path, *(f"{folder}/bareteeth.{n:06d}.ply" for n in (12, 2, 101)))
        assert only(tmp_path) == SampleSource(
            key="FaceTalk_170725_00137_TA_bareteeth",
            subject="FaceTalk_170725_00137_TA",
            expression="bareteeth",
            level=None,
            frames=tuple(ScanFiles(f"{folder}/bareteeth.{n:06d}.ply") for n in (2, 12, 101)),
            frame_rate=60.0,
            numbers=(0, 10, 99),
        )

    def test_vocaset_sentences_are_not_expressions(self, tmp_path):
        touch(tmp_path, "FaceTalk_170725_00137_TA/sentence01/sentence01.000001.ply")
        with pytest.raises(UsageError, match="no known layout"):
            find_samples(tmp_path, "auto")

    def test_other_and_hidden_files_are_skipped(self, tmp_path):
        folder = "FaceTalk_170725_00137_TA/mouth_up"
        touch(tmp_path, f"{folder}/mouth_up.000001.ply", f"{folder}/._mouth_up.000002.ply", f"{folder}/mean.ply")
        assert [scan.mesh for scan in only(tmp_path).frames] == [f"{folder}/mouth_up.000001.ply"]


class TestFacescape:
    def test_registered_scan_with_texture(self, tmp_path):
        touch(tmp_path, "122/models_reg/4_anger.obj", "122/models_reg/4_anger.jpg", "122/models_reg/4_anger.obj.mtl")
        assert only(tmp_path) == SampleSource(
            key="122_4_anger",
            subject="122",
            expression="AN",
            level=None,
            frames=(ScanFiles("122/models_reg/4_anger.obj", "122/models_reg/4_anger.jpg"),),
        )

    def test_three_expressions_get_codes_and_others_keep_their_names(self, tmp_path):
        names = ("1_neutral", "2_smile", "4_anger", "14_sadness", "20_brow_lower", "21_more", "0_less", "smile")
        touch(tmp_path, *(f"1/models_reg/{name}.obj" for name in names))
        found = {sample.key: sample.expression for sample in find_samples(tmp_path, "auto").samples}
        assert found == {
            "1_1_neutral": "NE",
            "1_2_smile": "smile",
            "1_4_anger": "AN",
            "1_14_sadness": "SA",
            "1_20_brow_lower": "brow_lower",
        }

    def test_each_expression_has_the_neutral_scan(self, tmp_path):
        touch(tmp_path, *(f"{subject}/models_reg/{name}.obj" for subject in "12" for name in ("1_neutral", "2_smile")))
        smiles = [sample for sample in find_samples(tmp_path, "auto").samples if sample.expression == "smile"]
        assert [smile.neutral.mesh for smile in smiles] == [f"{s}/models_reg/1_neutral.obj" for s in "12"]


class TestIct:
    def test_generic_face_expressions_and_identities(self, tmp_path):
        names = ("generic_neutral_mesh", "browDown_L", "jawOpen", "identity000", "identity001")
        touch(tmp_path, *(f"FaceXModel/{name}.obj" for name in names), "FaceXModel/vertex_indices.json")
        neutral = ScanFiles("FaceXModel/generic_neutral_mesh.obj")
        samples = {sample.key: sample for sample in find_samples(tmp_path, "auto").samples}
        assert samples.keys() == set(names)
        assert samples["browDown_L"] == SampleSource(
            key="browDown_L",
            subject="generic",
            expression="brow_down_left",
            level=None,
            frames=(ScanFiles("FaceXModel/browDown_L.obj"),),
            neutral=neutral,
            action_units={"AU4": 0.5},
        )
        jaw, neutral_face, identity = (samples[name] for name in ("jawOpen", "generic_neutral_mesh", "identity001"))
        assert (jaw.expression, jaw.action_units, jaw.neutral) == ("jaw_open", {"AU26": 1.0}, neutral)
        assert (neutral_face.subject, neutral_face.expression, neutral_face.action_units) == ("generic", "NE", {})
        assert (identity.subject, identity.expression, identity.action_units) == ("identity001", "NE", {})

    @pytest.mark.parametrize("name", ["mouthLeft", "eyeLookIn_L"])
    def test_shape_without_action_unit(self, tmp_path, name):
        touch(tmp_path, "generic_neutral_mesh.obj", f"{name}.obj")
        shape = next(sample for sample in find_samples(tmp_path, "auto").samples if sample.key == name)
        assert shape.action_units is None

    def test_other_meshes_are_skipped(self, tmp_path):
        touch(tmp_path, *(f"M/{name}.obj" for name in ("generic_neutral_mesh", "eyeball", "browDown_X", "identity1")))
        touch(tmp_path, "sample/jawOpen.obj")
        assert keys(tmp_path) == ["generic_neutral_mesh"]
        assert find_samples(tmp_path, "auto").skipped == ("sample/: 1 mesh", "2 files *.obj", "1 file *_X.obj")
