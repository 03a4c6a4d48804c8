"""Where the installed PyTorch and the NVIDIA packages beside it are, found without importing any of them."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

from profl.bench.memory.errors import GpuUnavailable

_CUDA_MAJOR = 13


@dataclass(frozen=True)
class Installation:
    """What building a virtual GPU needs of PyTorch.

    Parameters
    ----------
    version
        PyTorch's version, its build included: ``2.14.1+cu130``.
    libraries
        The shared libraries whose imports must be answered.
    headers
        Folders of the headers of CUDA and cuDNN.
    cudnn
        The real cuDNN library.
    """

    version: str
    libraries: tuple[Path, ...]
    headers: tuple[Path, ...]
    cudnn: Path


def find_installation() -> Installation:
    """Find the installed PyTorch.

    Raises
    ------
    GpuUnavailable
        If this is not Linux, or PyTorch or one of its CUDA packages is missing.
    """
    if sys.platform != "linux":
        raise GpuUnavailable(f"a virtual GPU needs Linux, this is {sys.platform}: run in a Linux container")
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise GpuUnavailable("PyTorch is not installed: pip install torch")
    folder = Path(spec.origin).parent
    version = runpy.run_path(str(folder / "version.py"))
    cuda = version["cuda"]
    if cuda is None or int(cuda.split(".")[0]) != _CUDA_MAJOR:
        built = f"is built for CUDA {cuda}" if cuda else "is built without CUDA"
        raise GpuUnavailable(
            f"PyTorch {version['__version__']} {built}, a virtual GPU needs the CUDA {_CUDA_MAJOR} build: "
            "pip install torch from PyPI on Linux"
        )
    packages = folder.parent / "nvidia"
    return Installation(
        version=version["__version__"],
        libraries=tuple(sorted((folder / "lib").glob("lib*.so"))),
        headers=(
            _existing(packages / f"cu{_CUDA_MAJOR}" / "include", "cuda.h").parent,
            _existing(packages / "cudnn" / "include", "cudnn.h").parent,
        ),
        cudnn=_existing(packages / "cudnn" / "lib", "libcudnn.so.9"),
    )


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise GpuUnavailable(
            f"{path} is missing: install PyTorch with pip, whose packages bring CUDA's headers and libraries"
        )
    return path
