"""The emulated Arm machine: Python, LiteRT and ONNX Runtime for aarch64 under qemu, without root and without a device.

Made once, in the user's cache: qemu and the libraries from the Debian archive that this machine is set up for, checked
by apt's signatures; the runtimes, in the versions that run here, from the package index that pip is set up for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

from edgecc.errors import EdgeccError

_RECIPE = 1  # rises when the folder is made otherwise
_NODE = "--device emulated://"
_REMEDY = "run it on a Debian machine that reaches its package archive and a Python package index"
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


@dataclass(frozen=True)
class Level:
    """A processor that is emulated: qemu's name, and what Linux says of it.

    Attributes:
        cpu: for qemu. part: in /proc/cpuinfo, where the runtimes look which core it is.
        features: beyond those of every 64-bit core.
        kernels: the int8 product that it has.
    """

    cpu: str
    part: str
    features: str
    kernels: str


LEVELS: Mapping[str, Level] = {
    "a53": Level("cortex-a53", "0xd03", "", "smlal"),
    "a72": Level("cortex-a72", "0xd08", "", "smlal"),
    "a76": Level("cortex-a76", "0xd0b", "atomics fphp asimdhp asimddp", "sdot"),
    # Every extension but SME, whose emulation answers int8 wrongly; the part is that of Neoverse N2.
    "i8mm": Level("max,sme=off", "0xd49", "atomics fphp asimdhp asimddp i8mm", "smmla"),
}
"""By place of `emulated://`. Part numbers: Arm's technical reference manuals, MIDR_EL1."""


class EmulatorUnavailableError(EdgeccError):
    """The emulated machine cannot be made here."""


@dataclass(frozen=True)
class Machine:
    """A folder with everything that an emulated process needs."""

    folder: Path

    def start(
        self,
        level: str,
        words: Sequence[str],
        work: Path,
        errors: BinaryIO,
        log: Sequence[str] = (),
        fd: int = -1,
    ) -> subprocess.Popen[bytes]:
        """Starts the emulated Python; `log` goes to qemu, which may write to the descriptor `fd`.

        What a process finds in its environment moves its stack, and with that the count of its instructions:
        so it finds always the same.
        """
        root = self.folder / level
        python = next((self.folder / "root/usr/bin").glob("python3.*")).name
        guest = {"PYTHONPATH": str(self.folder / "site"), "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
        # Else ONNX Runtime (1.29 and later) starts a thread that reports the network to its makers: the memory is
        # another in every run, and with it the count.
        guest["ORT_DISABLE_TELEMETRY"] = "1"
        return subprocess.Popen(
            [
                str(self.folder / "qemu/usr/bin/qemu-aarch64-static"),
                *("-L", str(root), "-cpu", LEVELS[level].cpu, *log),
                *(str(root / "usr/bin" / python), "-B", "-s", "-S", *words),
            ],
            cwd=work,
            env={**guest, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=[fd] if fd >= 0 else [],
        )


def versions() -> dict[str, str]:
    """The runtimes as they are installed here: what runs emulated is the same."""
    return {name: metadata.version(name) for name in ("ai-edge-litert", "onnxruntime")}


def cache() -> Path:
    """Where the machine is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "edgecc"


def machine() -> Machine:
    """The emulated machine, made where it is not there yet (half a minute, 250 MB).

    It is made in a folder of its own and renamed when it is complete: who comes second throws his away.

    Raises:
        EmulatorUnavailableError: this is no Debian machine, or its archive or the package index cannot be reached.
    """
    found = versions()
    name = f"arm64-{_RECIPE}-litert-{found['ai-edge-litert']}-onnxruntime-{found['onnxruntime']}"
    final = cache() / name
    if final.is_dir():
        return Machine(final)
    for tool in ("apt-get", "apt-cache", "dpkg", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise _unavailable(f"there is no {tool}: this is no Debian machine")
    try:
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making-", dir=cache(), ignore_cleanup_errors=True) as made:
            _make(Path(made), found)
            with suppress(OSError):  # another process was first
                os.rename(made, final)
            os.makedirs(made, exist_ok=True)  # for the one who cleans up
        if not final.is_dir():
            raise OSError(f"{final.name} cannot be put there")
    except OSError as error:
        raise _unavailable(f"the folder {cache()} cannot be written: {error}") from error
    return Machine(final)


def _make(folder: Path, found: Mapping[str, str]) -> None:
    python = _packages(folder)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    words = [f"--platform={p}_aarch64" for p in _PLATFORMS]
    wanted = [f"{name}=={number}" for name, number in found.items()]
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-input", "--no-compile"]
    kind = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *words]
    _call(
        [sys.executable, *pip, "--target", str(folder / "site"), *kind, *wanted],
        "pip finds no aarch64 builds of the runtimes",
    )
    for level in LEVELS:
        _root(folder, level)
    if version == python:  # else the emulated Python compiles its modules in every run
        library = folder / "root/usr/lib" / f"python{python}"
        skipped = "/(test|tests|idlelib|lib2to3|f2py|sklearn|transformers|tools|quantization)/"
        words = ["-m", "compileall", "-q", "-x", skipped, str(library), str(folder / "site")]
        subprocess.run([sys.executable, *words], check=False, capture_output=True, env=_compiling())


def _compiling() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def _packages(folder: Path) -> str:
    """Unpacks qemu and the libraries; returns the version of Python, which depends on the release of Debian."""
    apt = folder / "apt"
    for part in ("lists/partial", "cache/archives/partial", "deb"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()
    native = _call(["dpkg", "--print-architecture"], "dpkg fails").strip()
    both = native if native == "arm64" else f'{native}"; "arm64'
    (apt / "conf").write_text(
        f'APT::Architectures {{"{both}";}};\nAPT::Sandbox::User "";\n'
        f'Dir::State::status "{apt}/status";\nDir::State::lists "{apt}/lists";\nDir::Cache "{apt}/cache";\n'
        'Acquire::Retries "1";\nAcquire::http::Timeout "15";\nAcquire::https::Timeout "15";\n'
        'Acquire::Languages "none";\n',
        encoding="utf-8",
    )
    env = {**os.environ, "APT_CONFIG": str(apt / "conf"), "LC_ALL": "C"}
    out_of_reach = "the Debian archive is out of reach"
    _call(["apt-get", "update", "-q"], out_of_reach, env)

    def needs(package: str) -> list[str]:
        text = _call(["apt-cache", "show", "--no-all-versions", f"{package}:arm64"], out_of_reach, env)
        lines = [line.partition(":")[2] for line in text.splitlines() if re.match(r"(Pre-)?Depends:", line)]
        return [m for line in lines for m in re.findall(r"(?:^|,)\s*([a-z0-9][a-z0-9.+-]*)", line)]

    names = [re.fullmatch(r"libpython(3\.\d+)-stdlib", name) for name in needs("libpython3-stdlib")]
    python = next((m[1] for m in names if m), None)
    if python is None:
        raise _unavailable("the archive has no Python 3 for arm64")
    own = [f"python{python}-minimal", f"libpython{python}-minimal", f"libpython{python}-stdlib"]
    every = {*own, "libc6", "libgcc-s1", "libstdc++6", "libgomp1", "zlib1g", "libexpat1"}
    every.update(name for package in own for name in needs(package) if name.startswith("lib"))
    wanted = [f"qemu-user-static:{native}", *(f"{name}:arm64" for name in sorted(every))]
    _call(["apt-get", "download", "-q", *wanted], out_of_reach, env, apt / "deb")
    for deb in sorted((apt / "deb").glob("*.deb")):
        target = folder / ("qemu" if deb.name.startswith("qemu") else "root")
        _call(["dpkg-deb", "-x", str(deb), str(target)], "a package cannot be unpacked")
    for extra in (folder / "qemu/usr/bin").glob("qemu-*"):
        if extra.name != "qemu-aarch64-static":
            extra.unlink()
    shutil.rmtree(apt)
    for extra in (folder / "root/usr/share", folder / "qemu/usr/share"):
        shutil.rmtree(extra, ignore_errors=True)
    return python


def _root(folder: Path, level: str) -> None:
    """The file system of one level: the libraries, and what the kernel would say of its two cores.

    The runtimes read which core it is from these files. Without them, or where the part number is another than that
    of the emulated processor, they crash.
    """
    root, facts = folder / level, LEVELS[level]
    files: dict[str, object] = {"proc/cpuinfo": "".join(_cpuinfo(i, facts) for i in range(2))}
    system = "sys/devices/system/cpu"
    files |= {f"{system}/{name}": "0-1" for name in ("possible", "present", "online")}
    files[f"{system}/kernel_max"] = 1
    for i in range(2):
        core = f"{system}/cpu{i}"
        topology = {
            "physical_package_id": 0,
            "core_id": i,
            "cluster_cpus_list": "0-1",
            "core_siblings_list": "0-1",
        }
        files |= {f"{core}/topology/{name}": value for name, value in topology.items()}
        files |= {f"{core}/cpufreq/cpuinfo_max_freq": 1800000, f"{core}/cpufreq/cpuinfo_min_freq": 600000}
        caches = ((1, "Data", "32K", i), (1, "Instruction", "32K", i), (2, "Unified", "512K", i))
        for k, (number, kind, size, shared) in enumerate((*caches, (3, "Unified", "2048K", "0-1"))):
            cache_facts = {"level": number, "type": kind, "size": size, "shared_cpu_list": shared}
            cache_facts["coherency_line_size"] = 64
            files |= {f"{core}/cache/index{k}/{name}": value for name, value in cache_facts.items()}
    for path, value in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{value}\n", encoding="ascii")
    for entry in sorted((folder / "root").iterdir()):
        (root / entry.name).symlink_to(Path("..") / "root" / entry.name)


def _cpuinfo(number: int, facts: Level) -> str:
    return (
        f"processor\t: {number}\nFeatures\t: fp asimd aes crc32 {facts.features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {facts.part}\nCPU revision\t: 0\n\n"
    )


def _call(
    words: Sequence[str], failure: str, env: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    """What a tool wrote; its last line of complaint where it fails."""
    try:
        done = subprocess.run(
            words,
            check=False,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
    except subprocess.TimeoutExpired as error:
        raise _unavailable(f"{failure}: {words[0]} took more than ten minutes") from error
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.startswith(("E:", "ERROR:"))]
        raise _unavailable(f"{failure}: {said[-1] if said else f'{words[0]} ended with {done.returncode}'}")
    return done.stdout


def _unavailable(message: str) -> EmulatorUnavailableError:
    return EmulatorUnavailableError(message, node=_NODE, remedy=_REMEDY)
