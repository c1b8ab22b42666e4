"""What of the colours of an upload is missing or cannot be read is said on the page."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from smile_pipe.pipeline.app.analysis import _read_meshes
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.predict.inputs import find_inputs
from smile_pipe.pipeline.render.config import RenderConfig

OBJ = "mtllib face.mtl\nusemtl skin\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"


def notes(folder, needs_colors: bool = False) -> tuple[tuple[str, ...], bool]:
    """The notes on a scan, and whether it has a texture."""
    (folder / "face.obj").write_text(OBJ)
    (folder / "face.mtl").write_text("newmtl skin\nmap_Kd skin.tga\n")
    settings = RenderConfig(data_dir=folder, out=folder / "out", channels=("rgb", "depth"), landmarks="file").resolve()
    predictor = SimpleNamespace(settings=settings.model_copy(update={"needs_colors": needs_colors}))
    (mesh,), found = _read_meshes(predictor, find_inputs([str(folder / "face.obj")])[0])
    return found, mesh.texture is not None


def test_a_missing_texture_is_named(tmp_path):
    assert notes(tmp_path) == (("face.obj: the image skin.tga is missing",), False)


def test_a_texture_that_cannot_be_read_is_named_where_predictions_do_not_need_it(tmp_path):
    (tmp_path / "skin.tga").write_bytes(b"no image")
    (note, *_), has_texture = notes(tmp_path)
    assert note.startswith("Shown without its texture, which the predictions do not use: skin.tga: not a readable")
    assert not has_texture
    with pytest.raises(MeshError, match="not a readable"):
        notes(tmp_path, needs_colors=True)


def test_a_texture_that_is_shown_needs_no_note(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "skin.tga", format="PNG")
    assert notes(tmp_path) == ((), True)
