"""The folder of ICT-FaceKit: `FaceXModel/generic_neutral_mesh.obj`, one OBJ per shape of the model.

Source: ICT-FaceKit (USC Institute for Creative Technologies), whose expressions have the names of ARKit's blend shapes.
The action units of each shape are our reading, after FACS (Ekman and Friesen, 1978). All mesh formats are accepted.
"""

import re

from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.datasets.file_index import FileIndex, stem_of

_NEUTRAL = "generic_neutral_mesh"
_IDENTITY = re.compile(r"identity\d{3}")
_SIDES = {"L": "left", "R": "right"}
_ONE_SIDE = 0.5
# Shapes by their name without the side. FACS has no action unit for the shapes with an empty tuple.
UNITS: dict[str, tuple[str, ...]] = {
    "browDown": ("AU4",),
    "browInnerUp": ("AU1",),
    "browOuterUp": ("AU2",),
    "cheekPuff": ("AU34",),
    "cheekRaiser": ("AU6",),
    "cheekSquint": ("AU6",),
    "eyeBlink": ("AU45",),
    "eyeLookDown": ("AU64",),
    "eyeLookIn": (),
    "eyeLookOut": (),
    "eyeLookUp": ("AU63",),
    "eyeSquint": ("AU7",),
    "eyeWide": ("AU5",),
    "jawForward": ("AU29",),
    "jawLeft": ("AU30",),
    "jawOpen": ("AU26",),
    "jawRight": ("AU30",),
    "mouthClose": (),
    "mouthDimple": ("AU14",),
    "mouthFrown": ("AU15",),
    "mouthFunnel": ("AU22",),
    "mouthLeft": (),
    "mouthLowerDown": ("AU16",),
    "mouthPress": ("AU24",),
    "mouthPucker": ("AU18",),
    "mouthRight": (),
    "mouthRollLower": ("AU28",),
    "mouthRollUpper": ("AU28",),
    "mouthShrugLower": ("AU17",),
    "mouthShrugUpper": (),
    "mouthSmile": ("AU12",),
    "mouthStretch": ("AU20",),
    "mouthUpperUp": ("AU10",),
    "noseSneer": ("AU9",),
    "PupilDilate": (),
    "pupilDilate": (),
    "tongueOut": ("AU19",),
}


class Ict:
    """Finds the folder at any depth by its generic face. Meshes that are not shapes of the model are skipped."""

    name = "ict"

    def match_reason(self, index: FileIndex) -> str:
        """Return where the generic face is."""
        folders = _folders(index)
        return f"{_NEUTRAL}, the generic face of ICT-FaceKit, in {min(folders) or 'the top folder'}" if folders else ""

    def samples(self, index: FileIndex) -> list[SampleSource]:
        """Return the generic face, the generic face with each expression shape, and the face of each identity."""
        folders = _folders(index)
        paths = (path for path in index.meshes if path.rpartition("/")[0] in folders)
        return [source for path in paths if (source := _source(index, path))]


def _folders(index: FileIndex) -> set[str]:
    paths = (path.rpartition("/") for path in index.meshes)
    return {folder for folder, _, name in paths if name.startswith(_NEUTRAL) and stem_of(name) == _NEUTRAL}


def _source(index: FileIndex, path: str) -> SampleSource | None:
    name = stem_of(path).rpartition("/")[2]
    subject, expression = "generic", "NE"
    units: dict[str, float] | None = {}
    if _IDENTITY.fullmatch(name):
        subject = name
    elif name != _NEUTRAL:
        shape, _, side = name.partition("_")
        if shape not in UNITS or (side and side not in _SIDES):
            return None
        words = re.findall(r"[A-Za-z][a-z]*", shape) + ([_SIDES[side]] if side else [])
        expression = "_".join(words).lower()
        units = dict.fromkeys(UNITS[shape], _ONE_SIDE if side else 1.0) or None
    scan = ScanFiles.with_sidecars(path, index)
    return SampleSource(name, subject, expression, level=None, frames=(scan,), action_units=units)
