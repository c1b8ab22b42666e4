"""What towers compute in: single precision, or bfloat16 where the hardware multiplies it.

Weights, losses and the optimiser are in single precision either way (`torch.autocast`).
"""

import torch

from model.config import Precision


def native_precision(device_type: str) -> Precision:
    """The fastest precision that this machine's `device_type` ("cpu", "cuda") has in hardware and that is enough.

    GPUs have bfloat16. Of CPUs those have it that know AVX512-BF16 or AMX; others emulate it, more slowly than float32.
    """
    if device_type == "cuda":
        return "bfloat16"
    known = torch.cpu.get_capabilities()
    return "bfloat16" if known.get("avx512_bf16") or known.get("amx_bf16") else "float32"
