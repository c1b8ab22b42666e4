"""How our faces differ from one another: named modes, each a field whose strength is drawn per subject.

A row is what the mode does at one standard deviation, written for the subject's left side like `action_units.py`.
"""

from pipeline.faces.anatomy import MOUTH_LINE as M
from pipeline.faces.fields import Lids, Skin, Stretch, Stroke

IDENTITY_MODES: dict[str, tuple[Stroke, ...]] = {
    "face width": (Stretch(x=0.045),),
    "face length": (Stretch(y=0.04),),
    "lower face length": (Skin((0, -80), (60, 24), (0, -4, 0)),),
    "jaw width": (Stretch(x=0.07, at=-68, spread=22),),
    "chin": (Skin((0, -84), (14, 11), (0, -2, 3.5)),),
    "cheek fullness": (Skin((46, -38), (15, 16), (3.5, 0, 4)),),
    "cheekbones": (Skin((47, -4), (13, 9), (2, 0, 3)),),
    "forehead": (Skin((0, 72), (45, 18), (0, 0, 4)),),
    "nose length": (Skin((0, -18), (13, 12), (0, -3, 0.5)),),
    "nose projection": (Skin((0, -12), (8, 13), (0, 0, 3)),),
    "nose width": (Skin((13, -18), (8, 9), (2.2, 0, 0)),),
    "nose bridge": (Skin((0, 10), (6, 12), (0, 0, 2.2)),),
    "eye distance": (Skin((31, 20), (14, 14), (1.8, 0, 0)),),
    "eye opening": (Lids(upper=0.7, lower=-0.2),),
    "eye slant": (Skin((44, 18), (7, 8), (0, 1.4, 0)),),
    "brow height": (Skin((28, 42), (22, 8), (0, 2.0, 0)),),
    "brow ridge": (Skin((24, 37), (18, 6), (0, 0, 2.2)),),
    "mouth width": (Skin((25, M), (10, 9), (2.3, 0, -1.2)),),
    "mouth height": (Skin((0, M), (30, 11), (0, 1.8, 0)),),
    "lip fullness": (Skin((0, M + 7), (18, 4), (0, 1.1, 0.8)), Skin((0, M - 8), (18, 4), (0, -1.3, 1.0))),
}
