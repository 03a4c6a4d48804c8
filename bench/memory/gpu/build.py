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

from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.gpu.installation import Installation, find_installation

_SOURCES = Path(__file__).with_name("driver")
_MANAGEMENT_SOURCE = "nvml.c"
# Each library takes the name of the one it stands in for: a later search by name finds it already loaded.
_DRIVER_NAME, _MANAGEMENT_NAME = "libcuda.so.1", "libnvidia-ml.so.1"
_FLAGS = (
    *("-std=c11", "-O1", "-fPIC"),
    *("-D__CUDA_FP16_H__", "-D__CUDA_BF16_H__"),  # C++ only, and no function here takes a half
)

# Functions of CUDA, cuBLAS and cuDNN. The other libraries are refused at their entrance, or left to themselves.
_ANSWERED = re.compile(
    r"(__)?cuda[A-Z]\w*|cu(?!File)[A-Z]\w*|cublas\w*|cudnn\w*"
    r"|cusolverDnCreate|cusparseCreate|cufftCreate|ncclGetUniqueId|ncclCommInit\w*"
)
# Functions of which the caller goes on to read an answer. Without a hand-written one they must fail.
_ASKING = re.compile(
    r"Get|Create|Find|Init|Malloc|Graph|Capture|Ipc|Link|Load|Import|Export|Reserve|Occupancy|Pop|Check$"
)
_NOT_SUPPORTED = {"cublas": 15, "cudnn": 3000, "cusolver": 1, "cusparse": 10, "cufft": 16, "nccl": 5}
_NOT_SUPPORTED_CUDA = 801
# What is not imported, but looked up in the driver: by cuDNN before it plans attention, by Triton, and by driver.py.
# fmt: off
_LOOKED_UP = frozenset((
    "cuDeviceGetCount", "cuDriverGetVersion", "cuGetErrorName", "cuCtxGetDevice", "cuCtxGetLimit",
    "cuCtxSetLimit", "cuCtxPopCurrent", "cuCtxPushCurrent", "cuStreamGetCtx", "cuLibraryLoadData",
    "cuLibraryLoadFromFile", "cuLibraryGetKernel", "cuLibraryUnload", "cuKernelSetAttribute",
    "cuKernelGetAttribute", "cuLaunchKernelEx", "cuLinkCreate", "cuLinkAddData", "cuLinkComplete",
    "cuLinkDestroy", "cuOccupancyMaxActiveClusters", "cuOccupancyMaxPotentialClusterSize",
    "cuTensorMapEncodeIm2col", "virtual_gpu_configure", "virtual_gpu_watch",
))
# fmt: on
_CHECKSUM = "sha256"


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
    if not _complete(folder):
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
    for path in (*installation.libraries, installation.cudnn, *installation.headers):
        status = path.stat()
        content.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    return content.hexdigest()[:16]


def _checksum(folder: Path) -> str:
    return hashlib.sha256(
        b"".join((folder / name).read_bytes() for name in (_DRIVER_NAME, _MANAGEMENT_NAME))
    ).hexdigest()


def _complete(folder: Path) -> bool:
    """Return whether ``folder`` holds what a build left there: a crash of the machine may have cut files short."""
    try:
        return (folder / _CHECKSUM).read_text(encoding="ascii") == _checksum(folder)
    except (OSError, UnicodeDecodeError):
        return False


def _build_into(folder: Path, installation: Installation) -> Path:
    """Build beside ``folder`` and move the result there in one step; return where it is in the end."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    except OSError as unwritable:
        try:
            private = Path(tempfile.mkdtemp(prefix="profl-"))
        except OSError:
            raise GpuUnavailable(
                f"the virtual GPU can be built neither in {folder.parent} ({unwritable.strerror}) nor in a temporary "
                "folder: name a folder that can be written in the variable PROFL_CACHE"
            ) from None
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        _compile(private, installation)
        return private
    try:
        _compile(partial, installation)
        (partial / _CHECKSUM).write_text(_checksum(partial), encoding="ascii")
        if not _complete(folder):  # another process may have been faster
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    except OSError as error:
        if not _complete(folder):
            raise GpuUnavailable(f"the virtual GPU could not be built in {folder.parent}: {error}") from None
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
        exported = wanted | _LOOKED_UP
        generated = Path(scratch, "remaining.c")
        generated.write_text(_remaining(exported - _symbols("--defined-only", objects)), encoding="utf-8")
        exports = Path(scratch, "exports.map")
        exports.write_text(f"{{ global: {'; '.join(sorted(exported))}; local: *; }};\n", encoding="utf-8")
        _link(compiler, [*objects, generated], folder / _DRIVER_NAME, f"-Wl,--version-script={exports}")
        _link(compiler, [_SOURCES / _MANAGEMENT_SOURCE], folder / _MANAGEMENT_NAME)


def _link(compiler: list[str], inputs: list[Path], library: Path, *options: str) -> None:
    flags = [*_FLAGS, "-shared", f"-Wl,-soname,{library.name}", *options]
    _run([*compiler, *flags, *map(str, inputs), "-o", str(library), "-lpthread", "-ldl"])


def _remaining(names: set[str]) -> str:
    """Return C source for the functions that nobody wrote."""

    def answer(name: str) -> str:
        if not _ASKING.search(name):
            return "0"
        library = next((library for library in _NOT_SUPPORTED if name.startswith(library)), "cuda")
        return f'refuse("{name}", {_NOT_SUPPORTED.get(library, _NOT_SUPPORTED_CUDA)})'

    functions = (f"int {name}(void) {{ return {answer(name)}; }}\n" for name in sorted(names))
    return "int refuse(const char *function, int status);\n" + "".join(functions)


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
        try:
            command = shlex.split(chosen)
        except ValueError as error:
            raise GpuUnavailable(f"CC={chosen!r} is no command ({error}): correct or unset the variable CC") from None
        if command and shutil.which(command[0]):
            return command
        raise GpuUnavailable(f"the C compiler CC={chosen!r} does not exist: correct or unset the variable CC")
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
