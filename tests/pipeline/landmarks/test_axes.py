"""Given axes are compared with the pose of the face that was found."""

import numpy as np
import pytest

from smile_pipe.pipeline.landmarks.axes import MAX_TURN, matrix_of_axes, turn_problem
from smile_pipe.pipeline.landmarks.view_images import rotation_about


@pytest.mark.parametrize("degrees", [0, MAX_TURN - 1, MAX_TURN + 1, 180])
@pytest.mark.parametrize("axes", ["x,y,z", "x,z,-y", "-x,y,z"])
@pytest.mark.parametrize("about", [(0, 1, 0), (1, 1, 0)])
def test_turn_against_the_axes(axes, degrees, about):
    R = matrix_of_axes(axes) @ rotation_about(about, degrees)
    problem = turn_problem(axes, R.tolist())
    assert bool(problem) == (degrees > MAX_TURN)
    if problem:
        assert problem.startswith(f"its face is turned by {degrees:.0f} degrees against the given axes {axes};")


def test_identity_with_rounding_is_no_turn():
    assert turn_problem("x,y,z", (np.eye(3) * 1.000001).tolist()) == ""
