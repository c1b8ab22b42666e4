"""Small datasets in the layout of each real one: a few synthetic people, expressions and frames.

Each function writes one dataset; `DATASETS` maps the name of the layout to it.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path

from helpers.small_faces import COURSE, Person, lm3_points, write_obj, write_ply, write_range_image
from smile_pipe.pipeline.face_model.ict import SHAPES
from smile_pipe.pipeline.landmarks.files import write_bnd, write_lm3
from smile_pipe.pipeline.meshes.vrml import write_wrl

# Three are sufficient to distinguish, and few enough to render in a test.
SHOWN = {"AN": "Angry", "HA": "Happy", "SU": "Surprise"}


def write_bu3dfe(root: Path, subjects: int = 3) -> None:
    """Per subject a neutral scan and three expressions at two levels, with textures, landmarks and one raw scan."""
    for person, subject in _people(subjects, "{sex}{number:04d}"):
        folder = _folder(root / subject)
        for code, level in [("NE", 0), *product(SHOWN, (3, 4))]:
            mesh, landmarks = person.show(code, level / 4)
            stem = f"{subject}_{code}{level:02d}WH"
            write_wrl(folder / f"{stem}_F3D.wrl", mesh, f"{stem}_F2D.bmp")
            write_bnd(folder / f"{stem}_F3D.bnd", person.face.landmarks, landmarks)
            person.texture(folder / f"{stem}_F2D.bmp")
        write_wrl(folder / f"{subject}_NE00WH_RAW.wrl", mesh, "")


def write_bu4dfe(root: Path, subjects: int = 3) -> None:
    """Per subject three sequences of four frames, with textures, and landmarks in a separate tree."""
    for person, subject in _people(subjects, "{sex}{number:03d}"):
        for code, word in SHOWN.items():
            frames, marks = _folder(root / subject / word), _folder(root / "BU4DFE_BND_V1.1" / subject / word)
            for number, strength in enumerate(COURSE):
                mesh, landmarks = person.show(code, strength)
                write_wrl(frames / f"{number:03d}.wrl", mesh, f"{number:03d}.jpg")
                write_bnd(marks / f"{number:03d}.bnd", person.face.landmarks, landmarks)
                person.texture(frames / f"{number:03d}.jpg")


def write_bosphorus(root: Path, subjects: int = 3) -> None:
    """Per subject a neutral scan, three emotions, two action units and a pose, with textures and landmarks."""
    emotions = {"E_ANGER": "AN", "E_HAPPY": "HA", "E_SURPRISE": "SU"}
    names = {"N_N": "NE", **emotions, "LFAU_12": "AU12", "UFAU_4": "AU4", "YR_R10": "NE"}
    for person, subject in _people(subjects, "bs{number:03d}"):
        folder = _folder(root / subject)
        for name, shown in names.items():
            mesh, landmarks = person.show(shown)
            stem = folder / f"{subject}_{name}_0"
            points = lm3_points(mesh, landmarks)
            write_range_image(stem.with_suffix(".bnt"), mesh)
            write_lm3(stem.with_suffix(".lm3"), points)
            write_lm3(stem.with_suffix(".lm2"), points[:, :2] + 100)
            person.texture(stem.with_suffix(".png"))


def write_bp4d(root: Path, subjects: int = 3) -> None:
    """Per subject three tasks of four frames, numbered with four or three digits, with textures and action units."""
    coding = _folder(root / "AUCoding/AU_OCC")
    for (person, subject), digits in zip(_people(subjects, "{sex}{number:03d}"), _alternate(4, 3), strict=False):
        for task, code in {"T1": "HA", "T3": "SU", "T7": "AN"}.items():
            folder = _folder(root / subject / task)
            rows = ["0,1,12,17"]
            for number, strength in enumerate(COURSE):
                name = folder / f"{number:0{digits}d}.obj"
                write_obj(name, person.show(code, strength)[0])
                person.texture(name.with_suffix(".jpg"))
                rows.append(f"{number},{int(code == 'SU')},{int(code == 'HA' and strength > 0.5)},9")
            (coding / f"{subject}_{task}.csv").write_text("\n".join(rows) + "\n")


def write_coma(root: Path, subjects: int = 3) -> None:
    """Per subject three sequences of four frames without textures."""
    for person, subject in _people(subjects, "FaceTalk_170725_{number:05d}_TA"):
        for word, unit in {"bareteeth": "AU10", "high_smile": "AU12", "mouth_open": "AU26"}.items():
            folder = _folder(root / subject / word)
            for number, strength in enumerate(COURSE, start=1):
                write_ply(folder / f"{word}.{number:06d}.ply", person.show(unit, strength)[0])


def write_facescape(root: Path, subjects: int = 3) -> None:
    """Per subject four registered scans with textures and materials."""
    names = {"1_neutral": "NE", "2_smile": "AU12", "4_anger": "AN", "14_sadness": "SA"}
    for person, subject in _people(subjects, "{number}"):
        folder = _folder(root / subject / "models_reg")
        for name, shown in names.items():
            write_obj(folder / f"{name}.obj", person.show(shown)[0], material=f"{name}.obj.mtl")
            person.texture(folder / f"{name}.jpg")


def write_ict(root: Path, subjects: int = 3) -> None:
    """The generic face, five expression shapes of it, and an identity per subject; centimetres."""
    folder = _folder(root / "FaceXModel")
    generic = Person(0)
    write_obj(folder / "generic_neutral_mesh.obj", generic.show("NE")[0], 0.1)
    for unit in ("AU4", "AU12", "AU26"):
        (shape,) = [name for name, share in SHAPES[unit].items() if share >= 0.6]
        sides = {"": (1.0, 1.0)} if shape == "jawOpen" else {"_L": (1.0, 0.0), "_R": (0.0, 1.0)}
        for side, strengths in sides.items():
            write_obj(folder / f"{shape}{side}.obj", generic.show(unit, sides=strengths)[0], 0.1)
    for number in range(subjects):
        write_obj(folder / f"identity{number:03d}.obj", Person(number + 1).show("NE")[0], 0.1)


def write_folder(root: Path, subjects: int = 3) -> None:
    """A labels table of scans, of sequences by directory and by frame, and of one double label."""
    rows = ["path,subject,expression,level,sequence,frame,frame_rate,AU12,site"]
    for person, subject in _people(subjects, "person {number}"):
        folder = _folder(root / subject / "happy")
        write_ply(root / subject / "rest.ply", person.show("NE")[0])
        write_ply(root / subject / "wide-eyed.ply", person.show("SU")[0])
        rows.append(f"{subject}/rest.ply,{subject},neutral,,,,,0,lab")
        rows.append(f"{subject}/wide-eyed.ply,{subject},surprise;fear,4,,,,,lab")
        rows.append(f"{subject}/happy,{subject},happy,3,,,60,0.5,lab")
        for number, strength in enumerate(COURSE):
            write_obj(folder / f"f{number}.obj", person.show("HA", strength)[0])
            person.texture(folder / f"f{number}.jpg")
            write_ply(root / subject / f"angry{number}.ply", person.show("AN", strength)[0])
            rows.append(f"{subject}/angry{number}.ply,{subject},angry,,{subject} angry,{number},30,,lab")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


DATASETS: dict[str, Callable[..., None]] = {
    "bu3dfe": write_bu3dfe,
    "bu4dfe": write_bu4dfe,
    "bosphorus": write_bosphorus,
    "bp4d": write_bp4d,
    "coma": write_coma,
    "facescape": write_facescape,
    "ict": write_ict,
    "folder": write_folder,
}


def _people(subjects: int, name: str) -> list[tuple[Person, str]]:
    """Each person with a name from a pattern."""
    people = ((number, Person(number)) for number in range(1, subjects + 1))
    return [(person, name.format(sex=person.sex, number=number)) for number, person in people]


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _alternate(*values: int):
    while True:
        yield from values
