"""Where tests run Triton's kernels: on a GPU if there is one, else in Triton's interpreter (TRITON_INTERPRET=1)."""

import os

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if HAS_GPU else "cpu"
needs_triton = pytest.mark.skipif(
    not (HAS_GPU or INTERPRETED), reason="no GPU; a test in test_zbuffer_cuda.py runs it in the interpreter"
)

if INTERPRETED:
    from smile_pipe.pipeline.rendering.kernels import cuda_faces, cuda_pixels, cuda_vertices

    # The interpreter needs about the same time for a block of any size. The largest meshes, faces and images of the
    # tests still have several blocks.
    cuda_faces.BLOCK, cuda_pixels.BLOCK, cuda_vertices.BLOCK = 256, 1024, 512
