"""Tables of the parametric face: deformers of each action unit at full strength, and of each identity mode.

Numbers and names of action units are those of FACS (Ekman and Friesen, 1978); the deformers are ours. Positions are on
the subject's left side, in millimetres on the closed face (see `anatomy.py`); displacements are in millimetres to the
subject's left, up and outwards. An identity mode is a named displacement field at one standard deviation, whose weight
is drawn for each subject.
"""

from smile_pipe.pipeline.face_model.anatomy import MOUTH_LINE as M
from smile_pipe.pipeline.face_model.fields import Deformer, Fold, Jaw, Lids, LowerLip, Skin, Stretch, UpperLip

NASOLABIAL = ((16.5, -14), (22, -24), (29, -35), (35, -47))

ACTION_UNITS: dict[str, tuple[Deformer, ...]] = {
    # Inner brow raiser
    "AU1": (
        Skin((12, 41), (10, 10), (0, 10, 1)),
        Fold(((0, 57), (12, 57.5), (20, 59)), 1.1),
        Fold(((0, 65), (12, 65.5), (20, 67)), 0.9),
    ),
    # Outer brow raiser
    "AU2": (
        Skin((38, 42), (12, 9), (1, 9, 0)),
        Fold(((22, 60), (34, 62), (46, 59)), 1.1),
        Fold(((22, 68), (34, 70), (44, 68)), 0.9),
        Lids(upper=0.8),
    ),
    # Brow lowerer
    "AU4": (
        Skin((12, 39), (11, 9), (-5, -8, 2)),
        Skin((33, 41), (11, 8), (-2, -3.5, 0)),
        Fold(((4, 31), (4.5, 40), (6, 49)), 1.8, 1.6),
        Lids(upper=-0.8),
    ),
    # Upper lid raiser
    "AU5": (Lids(upper=4.2, lower=-0.4),),
    # Cheek raiser
    "AU6": (
        Skin((38, -6), (14, 11), (-1, 6, 3.5)),
        Lids(upper=-1.0, lower=2.8),
        Fold(((20, 7), (30, 3.5), (41, 6)), 1.3),
        Fold(((50, 19), (60, 23)), 1.0, 1.3),
        Fold(((50, 15.5), (61, 15.5)), 1.0, 1.3),
        Fold(((50, 12), (59, 8)), 1.0, 1.3),
    ),
    # Lid tightener
    "AU7": (Lids(upper=-1.8, lower=2.4), Fold(((21, 9), (31, 6), (41, 9)), 1.0)),
    # Nose wrinkler
    "AU9": (
        Skin((11, -13), (7, 9), (1, 6, 1.5)),
        Skin((18, 6), (8, 8), (-1.5, 4, 2.5)),
        Skin((10, 38), (9, 9), (-2, -3.5, 1.5)),
        UpperLip((0, 3.5, 1), at=9, spread=(10, 9)),
        Fold(((0, 17), (5, 16.5), (11, 14)), 1.7, 1.4),
        Fold(((0, 11.5), (6, 11), (12, 7.5)), 1.8, 1.4),
        Fold(((0, 6), (6, 5), (11, 1)), 1.6, 1.4),
        Fold(((17, -9), (20, -18), (27, -29)), 2.0, 2.2),
        Lids(upper=-1.0, lower=1.6),
    ),
    # Upper lip raiser
    "AU10": (
        UpperLip((0, 6.5, 1.5), at=11, spread=(11, 10)),
        Skin((21, -22), (8, 9), (1, 5, 2.5)),
        Fold(NASOLABIAL[:3], 2.0, 2.2),
    ),
    # Lip corner puller
    "AU12": (
        Skin((27, M), (12, 10), (9.5, 8.5, -7)),
        Skin((39, -19), (13, 12), (2, 5, 5)),
        Skin((17, M - 4), (9, 8), (2, 3, -2)),
        Fold(NASOLABIAL, 2.2, 2.6),
    ),
    # Dimpler
    "AU14": (Skin((27, M), (7, 7), (3.5, 0.5, -4)), Fold(((31, -42), (32, -54)), 1.2)),
    # Lip corner depressor
    "AU15": (
        Skin((26, M - 1), (8.5, 9), (2.5, -10, -2)),
        Fold(((28, -53), (32, -62), (33, -70)), 1.6, 2.0),
    ),
    # Lower lip depressor
    "AU16": (LowerLip((1, -6.5, 1), at=9, spread=(11, 9)),),
    # Chin raiser
    "AU17": (
        Skin((0, -70), (13, 9), (0, 5, 2.5)),
        Skin((0, M - 3), (15, 8), (0, 4, 2.5)),
        Fold(((0, -61), (9, -61), (16, -64)), 1.8, 2.2),
    ),
    # Lip pucker
    "AU18": (Skin((23, M), (9, 10), (-8, 0, 3)), Skin((0, M), (13, 10), (0, 0, 4))),
    # Lip stretcher
    "AU20": (
        Skin((26, M - 1), (11, 10), (10, -3, -6.5)),
        Skin((33, -64), (10, 12), (4, -4, -1)),
        LowerLip((0, -2, 0)),
        Fold(((36, -42), (38, -52), (37, -62)), 1.4, 2.0),
    ),
    # Lip tightener
    "AU23": (
        Skin((0, M + 7), (20, 3.5), (0, -3.0, -1.5)),
        Skin((0, M - 8), (20, 4), (0, 3.5, -1.5)),
        Skin((25, M), (7, 7), (-2.5, 0, 0)),
    ),
    # Lip pressor
    "AU24": (
        Skin((0, M + 6.5), (20, 3.5), (0, -3.2, -2.0)),
        Skin((0, M - 7.5), (20, 4), (0, 3.6, -2.0)),
        Fold(((26, M), (31, M - 1)), 1.6, 2.2),
    ),
    # Lips part
    "AU25": (UpperLip((0, 2, 0.5), spread=(18, 9)), LowerLip((0, -4, 0), spread=(18, 9))),
    # Jaw drop
    "AU26": (Jaw(0.32),),
    # Eyes closed
    "AU43": (Lids(upper=-10.8),),
    # Eyes down; the eyeballs turn too, see `parts.py`
    "AU64": (Lids(upper=-2.6, lower=-0.6),),
}

# Opens the eyes of the resting face, because the eye slits of the chart are closed.
RESTING_LIDS = Lids(upper=8.6, lower=-2.4)


IDENTITY_MODES: dict[str, tuple[Deformer, ...]] = {
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
