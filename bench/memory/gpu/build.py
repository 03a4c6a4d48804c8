"""Build the virtual GPU's libraries from their C sources, once for every version of PyTorch."""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.memory.errors import GpuUnavailable
from bench.memory.gpu.installation import Installation, find_installation

_SOURCES = Path(__file__).with_name("driver")
_MANAGEMENT_SOURCE = "nvml.c"
# Each library takes the name of the one it stands in for: a later search by name finds it already loaded.
_DRIVER_NAME, _MANAGEMENT_NAME = "libcuda.so.1", "libnvidia-ml.so.1"
_FLAGS = (
    *("-std=c11", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror"),
    "-Wno-unused-parameter",  # most functions answer without looking at what they are asked
    *("-D__CUDA_FP16_H__", "-D__CUDA_BF16_H__"),  # C++ only, and no function here takes a half
)

# Functions of CUDA, cuBLAS and cuDNN; its other libraries (cuFile, cuFFT, ...) are left to themselves.
_ANSWERED = re.compile(r"(__)?cuda[A-Z]\w*|cu(?!File)[A-Z]\w*|cublas\w*|cudnn\w*")
# Functions of which the caller goes on to read an answer. Without a hand-written one they must fail.
_ASKING = re.compile(r"Get|Create|Find|Init|Malloc|Graph|Capture|Ipc|Link|Load|Import|Export|Reserve")
_NOT_SUPPORTED = {"cublas": 15, "cudnn": 3000}
_NOT_SUPPORTED_CUDA = 801


@dataclass(frozen=True)
class Libraries:
    """The built libraries: the driver's stand-in, and the management library's."""

    driver: Path
    management: Path


@cache
def build() -> Libraries:
    """Return the libraries for the installed PyTorch, built first if the cache does not hold them.

    The cache is ``$PROFL_CACHE``, else ``$XDG_CACHE_HOME/profl``, else ``~/.cache/profl``. Where it cannot be
    written the libraries are built for this process alone. Processes may build at the same time: the first to
    finish wins and the others use its result.

    Raises
    ------
    GpuUnavailable
        If a tool or a part of PyTorch is missing, or the compiler refuses the sources.
    """
    installation = find_installation()
    folder = _cache_folder() / f"virtual-gpu-{installation.version}-{_fingerprint(installation)}"
    if not folder.is_dir():
        folder = _build_into(folder, installation)
    return Libraries(folder / _DRIVER_NAME, folder / _MANAGEMENT_NAME)


def _cache_folder() -> Path:
    if chosen := os.environ.get("PROFL_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "profl"


def _fingerprint(installation: Installation) -> str:
    """Return a name for everything that decides the result, apart from PyTorch's version."""
    content = hashlib.sha256()
    for source in [Path(__file__), *sorted(path for path in _SOURCES.rglob("*.[ch]"))]:
        content.update(source.name.encode() + b"\0" + source.read_bytes())
    content.update(str(installation.libraries[0].parent).encode())
    return content.hexdigest()[:16]


def _build_into(folder: Path, installation: Installation) -> Path:
    """Build beside ``folder`` and move the result there in one step; return where it is in the end."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    except OSError:
        private = Path(tempfile.mkdtemp(prefix="profl-"))
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        _compile(private, installation)
        return private
    try:
        _compile(partial, installation)
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process may have been faster, and a folder that is there is complete
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _compile(folder: Path, installation: Installation) -> None:
    """Leave the two libraries in ``folder``, and nothing else."""
    compiler = _compiler()
    headers = [f"-I{_SOURCES}", *(f"-isystem{path}" for path in installation.headers)]
    wanted = {name for name in _symbols("--undefined-only", installation.libraries) if _ANSWERED.fullmatch(name)}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        objects = []
        for source in sorted(_SOURCES.glob("*.c")):
            if source.name != _MANAGEMENT_SOURCE:
                objects.append(Path(scratch, f"{source.stem}.o"))
                _run([*compiler, *_FLAGS, *headers, "-c", str(source), "-o", str(objects[-1])])
        generated = Path(scratch, "remaining.c")
        generated.write_text(_remaining(wanted - _symbols("--defined-only", objects)), encoding="utf-8")
        inputs = [*objects, generated]
        _link(compiler, inputs, folder / _DRIVER_NAME)
        _link(compiler, [_SOURCES / _MANAGEMENT_SOURCE], folder / _MANAGEMENT_NAME)


def _link(compiler: list[str], inputs: list[Path], library: Path) -> None:
    name = f"-Wl,-soname,{library.name}"
    _run([*compiler, *_FLAGS, "-shared", name, *map(str, inputs), "-o", str(library), "-lpthread", "-ldl"])


def _remaining(names: set[str]) -> str:
    """Return C source for the functions that nobody wrote."""

    def status(name: str) -> int:
        if not _ASKING.search(name):
            return 0
        library = re.match("cublas|cudnn|", name)
        return _NOT_SUPPORTED.get(library[0] if library else "", _NOT_SUPPORTED_CUDA)

    return "".join(f"int {name}(void) {{ return {status(name)}; }}\n" for name in sorted(names))


def _symbols(which: str, files: list[Path] | tuple[Path, ...]) -> set[str]:
    """Return the functions that ``files`` define or import, without their versions."""
    tool = shutil.which("nm") or shutil.which("llvm-nm")
    if tool is None:
        raise GpuUnavailable("a virtual GPU needs the tool nm: install binutils")
    dynamic = ["-D"] if which == "--undefined-only" else []
    listing = _run([tool, *dynamic, which, *map(str, files)])
    return {line.split()[-1].partition("@")[0] for line in listing.splitlines() if len(line.split()) >= 2}


def _compiler() -> list[str]:
    if chosen := os.environ.get("CC"):
        command = shlex.split(chosen)
        if shutil.which(command[0]):
            return command
        raise GpuUnavailable(f"the C compiler CC={chosen} does not exist: correct or unset the variable CC")
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    raise GpuUnavailable("a virtual GPU needs a C compiler: install gcc or clang, or name one in the variable CC")


def _run(command: list[str]) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        last = finished.stderr.strip()[-2000:]
        raise GpuUnavailable(f"building the virtual GPU failed: {shlex.join(command)}\n{last}")
    return finished.stdout
