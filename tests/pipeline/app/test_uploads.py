"""Uploads: faces are accepted, everything else is rejected with a sentence."""

import io
import zipfile
from pathlib import Path

import pytest

from smile_pipe.pipeline.app import uploads
from smile_pipe.pipeline.app.uploads import UploadError, notes_on_upload, unpack

OBJ = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


def zipped(**files: bytes) -> bytes:
    """A zip of files; in their names `__` stands for a slash and `_` for a dot."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return buffer.getvalue()


THREE = zipped(a_obj=OBJ, b_obj=OBJ, c_obj=OBJ)


def with_name(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, OBJ)
    return buffer.getvalue()


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class TestAccepted:
    def test_a_mesh_is_stored_under_a_fixed_name(self, tmp_path):
        given = unpack("../../etc/my face.OBJ", OBJ, tmp_path)
        assert files_in(tmp_path) == {"scan.obj"} and given.source.frame_rate is None

    def test_a_zip_of_a_mesh_and_its_texture_is_a_scan(self, tmp_path):
        given = unpack("face.zip", zipped(a__face_obj=OBJ, a__face_png=b"png", a__notes_md=b"no"), tmp_path)
        assert files_in(tmp_path) == {"a/face.obj", "a/face.png"}
        assert given.source.frames[0].texture == "face.png" and given.source.frame_rate is None

    def test_files_that_are_not_used_are_named(self):
        content = zipped(a__face_obj=OBJ, a__face_png=b"png", a__face_tga=b"no", a__notes_md=b"no")
        (note,) = notes_on_upload("face.zip", content)
        assert note.startswith("Not used: a/face.tga, a/notes.md. Images are read from .bmp,")
        assert notes_on_upload("face.zip", THREE) == notes_on_upload("face.obj", OBJ) == ()

    def test_a_zip_of_frames_is_a_sequence_in_natural_order(self, tmp_path):
        given = unpack("x.zip", zipped(s__f10_obj=OBJ, s__f9_obj=OBJ, s__f1_obj=OBJ), tmp_path)
        assert [frame.mesh for frame in given.source.frames] == ["f1.obj", "f9.obj", "f10.obj"]
        assert given.source.frame_rate == 25

    def test_files_added_by_archivers_are_ignored(self, tmp_path):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for name in ("face.obj", "__MACOSX/._face.obj", ".hidden/face.obj"):
                archive.writestr(name, OBJ)
        unpack("face.zip", content.getvalue(), tmp_path)
        assert files_in(tmp_path) == {"face.obj"}


class TestRejected:
    @pytest.mark.parametrize(
        "name",
        [
            "../evil.obj",
            "a/../../evil.obj",
            "/etc/evil.obj",
            "C:\\evil.obj",
            "a\0b.obj",
            "a/b/c/d/e/f.obj",
            "\u202e.obj",
        ],
    )
    def test_paths_out_of_the_folder_are_rejected(self, tmp_path, name):
        folder = tmp_path / "folder"
        folder.mkdir()
        with pytest.raises(UploadError):
            unpack("face.zip", with_name(name), folder)
        assert files_in(tmp_path) == set()

    def test_the_unpacked_size_is_limited_whatever_the_zip_declares(self, tmp_path, monkeypatch):
        monkeypatch.setattr(uploads, "MAX_BYTES", 3 << 20)
        content = zipped(a_obj=bytes(8 << 20))
        # The size that the directory of the zip claims.
        lying = content.replace((8 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little"))
        for sent in (content, lying):
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            with pytest.raises(UploadError):
                unpack("face.zip", sent, folder)
            assert sum(path.stat().st_size for path in folder.rglob("*.obj")) <= 3 << 20

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_damaged_zips_are_rejected_for_every_compression_method(self, tmp_path, method):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("a.obj", OBJ)
            packed = archive.getinfo("a.obj").compress_size
        start = zipfile.sizeFileHeader + len("a.obj")
        refusals = []
        for place in range(start, start + packed):
            content = bytearray(buffer.getvalue())
            content[place] ^= 0xFF
            (folder := tmp_path / str(place)).mkdir()
            try:
                unpack("face.zip", bytes(content), folder)
            except UploadError as error:
                refusals.append(str(error))
        # A few bytes do not affect the content, such as the size of LZMA's dictionary.
        assert len(refusals) > packed // 2 and all("The zip is damaged" in refusal for refusal in refusals)

    def test_duplicate_names_are_rejected(self, tmp_path):
        buffer = io.BytesIO()
        with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.obj", OBJ)
            archive.writestr("a.obj", OBJ)
        with pytest.raises(UploadError, match="damaged"):
            unpack("face.zip", buffer.getvalue(), tmp_path)

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("face.exe", b"MZ", "cannot be read"),
            ("face", b"", "without an ending"),
            ("face.zip", b"no zip", "damaged"),
            ("face.zip", zipped(a_obj=OBJ).replace(b"a.obj", b"\0.obj"), "damaged"),
            ("face.zip", zipped(notes_txt=b"words"), "holds no mesh"),
            ("face.zip", zipped(a__x_obj=OBJ, b__y_obj=OBJ), "2 folders"),
        ],
        # A zip contains the time: as a name it would differ between the processes of pytest-xdist.
        ids=["exe", "no-ending", "no-zip", "damaged-name", "no-mesh", "two-folders"],
    )
    def test_other_content_is_rejected(self, tmp_path, name, content, reason):
        with pytest.raises(UploadError, match=reason):
            unpack(name, content, tmp_path)

    def test_the_number_of_names_is_limited_before_the_zip_is_opened(self, tmp_path, monkeypatch):
        monkeypatch.setattr(uploads, "MAX_NAMES", 2)
        monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("it was opened"))
        with pytest.raises(UploadError, match="over 2 names"):
            unpack("face.zip", THREE, tmp_path)

    def test_the_numbers_of_files_and_frames_are_limited(self, tmp_path, monkeypatch):
        sent = THREE
        monkeypatch.setattr(uploads, "MAX_FRAMES", 2)
        with pytest.raises(UploadError, match="has 3 frames"):
            unpack("face.zip", sent, tmp_path)
        monkeypatch.setattr(uploads, "MAX_FILES", 2)
        with pytest.raises(UploadError, match="holds 3 files"):
            unpack("face.zip", sent, tmp_path)


def test_a_scan_and_its_neutral_one_are_no_sequence(tmp_path):
    found = unpack("face.zip", zipped(smile_obj=OBJ, Neutral_obj=OBJ), tmp_path)
    assert found.source.frame_rate is None and found.source.frames[0].mesh == "smile.obj"
    assert found.source.neutral is not None and found.source.neutral.mesh == "Neutral.obj"
