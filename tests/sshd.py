"""A real sshd on loopback, without installing anything: Debian's packages unpacked, a user database of its own."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
SetEnv PATH={folder}/env/bin:/usr/bin:/bin TMPDIR={folder}/tmp
"""
_CLIENT = """
Host loop
  HostName 127.0.0.1
  Port {port}
  User pi
Host *
  IdentityFile {folder}/{key}
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/{known}
  GlobalKnownHostsFile none
"""


@dataclass(frozen=True)
class Sshd:
    """A server that lets the user `pi` (whoever runs the tests) in with one key.

    Attributes:
        folder: with `home` and `tmp`, which the sessions have, and `env`, whose python3 has no packages.
        log: what sshd said.
    """

    folder: Path
    port: int

    def client(self, name: str = "config", *, key: str = "key", known: str = "known") -> Path:
        """An ssh configuration that knows the host as `loop`."""
        path = self.folder / name
        path.write_text(_CLIENT.format(folder=self.folder, port=self.port, key=key, known=known))
        return path

    def device(self, host: str = "loop", **words: str) -> str:
        """For --device; by default with the Python that runs the tests."""
        words = {"config": str(self.client()), "python": sys.executable, **words}
        given = "&".join(f"{name}={quote(value)}" for name, value in words.items() if value)
        return f"ssh://{host}?{given}"

    def left(self) -> list[str]:
        """What sessions left in their folder for temporary files."""
        return sorted(path.name for path in (self.folder / "tmp").iterdir())


def _run(*words: str, cwd: Path | None = None) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=120, cwd=cwd).stdout


def _packages(folder: Path) -> Path:
    """Debian's packages, unpacked below a folder."""
    names = ("openssh-server", "libwrap0", "libnss-wrapper")
    folder.mkdir()
    try:
        try:
            _run("apt-get", "download", "-q", *names, cwd=folder)
        except subprocess.CalledProcessError:  # no lists of packages yet: get them into a place of their own
            lists = folder / "lists"
            (lists / "partial").mkdir(parents=True)
            own = ("-o", f"Dir::State::lists={lists}", "-o", "APT::Sandbox::User=root")
            _run("apt-get", *own, "update", "-q")
            _run("apt-get", *own, "download", "-q", *names, cwd=folder)
        for package in folder.glob("*.deb"):
            _run("dpkg-deb", "-x", str(package), str(folder / "root"))
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"Debian's openssh-server cannot be had here: {error}")
    return folder / "root"


@contextmanager
def serve(folder: Path) -> Iterator[Sshd]:
    """Runs sshd; skips the test where that is impossible."""
    if shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("there is no ssh client")
    root = _packages(folder / "packages")
    for key in ("host_key", "key", "other_key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    _run(sys.executable, "-m", "venv", "--without-pip", str(folder / "env"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    (folder / "unknown").write_text("")
    other = " ".join((folder / "other_key.pub").read_text().split()[:2])
    (folder / "changed").write_text(f"[127.0.0.1]:{port} {other}\n")
    with _privileges(), _daemon(folder, root, port):
        yield Sshd(folder, port)


@contextmanager
def _privileges() -> Iterator[None]:
    """As root, sshd wants a folder for the part of it that has no privileges."""
    path, made = Path("/run/sshd"), False
    if os.getuid() == 0 and not path.exists():
        try:
            path.mkdir(mode=0o755)
        except OSError as error:
            pytest.skip(f"sshd's folder cannot be made: {error}")
        made = True
    yield
    if made:
        with suppress(OSError):
            path.rmdir()


@contextmanager
def _daemon(folder: Path, root: Path, port: int) -> Iterator[None]:
    config = _CONFIG.format(folder=folder, port=port)
    for word, program in (
        ("SshdSessionPath", "sshd-session"),
        ("SshdAuthPath", "sshd-auth"),
    ):  # OpenSSH 9.8, 10
        if (path := root / "usr/lib/openssh" / program).exists():
            config += f"{word} {path}\n"
    (folder / "sshd_config").write_text(config)
    shell, user, group = "/bin/sh", os.getuid(), os.getgid()
    (folder / "passwd").write_text(
        f"pi:x:{user}:{group}::{folder}/home:{shell}\nsshd:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
    )
    (folder / "group").write_text(f"pi:x:{group}:\nnogroup:x:65534:\n")
    library = next(root.glob("usr/lib/*/libnss_wrapper.so"))
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": str(library.parent),
        "NSS_WRAPPER_PASSWD": str(folder / "passwd"),
        "NSS_WRAPPER_GROUP": str(folder / "group"),
    }
    words = [str(root / "usr/sbin/sshd"), "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "log").open("w") as log, subprocess.Popen(words, env=environment, stderr=log) as daemon:
        try:
            for _ in range(50):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if daemon.poll() is not None:
                    break
                time.sleep(0.1)
            if daemon.poll() is not None:
                pytest.skip(f"sshd does not start: {(folder / 'log').read_text()[-300:]}")
            yield
        finally:
            daemon.terminate()
