"""What a space file's profile is chosen by."""

import ctypes
from pathlib import Path

ROCM = Path("/dev/kfd")
"""The kernel's own device for trainings on AMD's GPUs."""


def has_gpu() -> bool:
    """Whether torch can train on a GPU here.

    torch takes a second to import, so it is asked only where there is a driver: a space file with a fault is answered
    without that wait on machines that have none.
    """
    if not (ROCM.exists() or _has_cuda_driver()):
        return False
    import torch  # noqa: PLC0415

    return torch.cuda.is_available()


def _has_cuda_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
