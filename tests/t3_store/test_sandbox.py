"""What a process gives up by itself, and the check that it holds no power. In children of theirs.

More of the sandbox: its filter, its files, how far it got, and attacks, in test_sandbox_*.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuse_s3_worker import sandbox
from fuse_s3_worker.sandbox import process

PYTHON = str(Path(sys.executable).resolve())

NOBODY = 65534

Child = Callable[..., subprocess.CompletedProcess[str]]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture(scope="module")
def packages() -> Iterator[Path]:
    """A copy that everybody can read: the clone may lie where only root can go."""
    with tempfile.TemporaryDirectory() as home:
        copy = Path(home, "fuse_s3_worker", "sandbox")
        shutil.copytree(
            Path(sandbox.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__")
        )
        Path(home).chmod(0o755)
        yield Path(home)


@pytest.fixture
def child(packages: Path) -> Child:
    """A way to run code in a fresh interpreter, behind a `wrapper` that takes powers away."""

    def run(code: str, *wrapper: str) -> subprocess.CompletedProcess[str]:
        prelude = (
            f"import sys\nsys.path.insert(0, {str(packages)!r})\n"
            "from fuse_s3_worker import sandbox\n"
        )
        return subprocess.run(
            [*wrapper, PYTHON, "-B", "-c", prelude + code],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )

    return run


CHECK = """
try:
    sandbox.check()
except sandbox.TooPowerfulError as error:
    print(error)
else:
    print("powerless")
"""

AS_NOBODY = ("setpriv", "--reuid", f"{NOBODY}", "--regid", f"{NOBODY}", "--clear-groups")
NO_CAPS = ("--inh-caps=-all", "--bounding-set=-all")
NNP = ("--no-new-privs",)


@needs_root
@pytest.mark.parametrize(
    ("wrapper", "verdict"),
    [
        ((), "the worker runs with root's user or group id"),
        (("setpriv", "--reuid", f"{NOBODY}", *NNP), "the worker runs with root's user or group"),
        (
            ("setpriv", "--reuid", f"{NOBODY}", "--regid", f"{NOBODY}", "--groups", "0"),
            "the worker runs with root's user or group id",
        ),
        (("setpriv", "--euid", f"{NOBODY}", "--regid", f"{NOBODY}", "--clear-groups"),
         "the worker runs with root's user or group id"),
        ((*AS_NOBODY, *NNP), "powerless"),  # an ordinary user's
        (
            (*AS_NOBODY, "--inh-caps=+net_raw", "--ambient-caps=+net_raw", *NNP),
            "the worker has capabilities: CapInh ",
        ),
        ((*AS_NOBODY, *NO_CAPS), "the worker may gain privileges: no_new_privs is not set"),
        ((*AS_NOBODY, *NO_CAPS, *NNP), "powerless"),
    ],
)  # fmt: skip
def test_every_power_that_is_left_is_found(
    child: Child, wrapper: tuple[str, ...], verdict: str
) -> None:
    result = child(CHECK, *wrapper)
    assert result.stdout.startswith(verdict), (result.stdout, result.stderr)


def test_confining_forbids_core_dumps_and_looking_in(child: Child) -> None:
    result = child(
        "import ctypes, resource\n"
        "assert sandbox.confine().missing == {}\n"
        "for name in ('CORE', 'MEMLOCK', 'MSGQUEUE', 'RTPRIO'):\n"
        "    print(resource.getrlimit(getattr(resource, f'RLIMIT_{name}')))\n"
        "for option in (3, 39, 66):\n"  # PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS, PR_GET_MDWE
        "    print(ctypes.CDLL(None).prctl(option, 0, 0, 0, 0))\n"
    )
    assert result.stdout.splitlines() == ["(0, 0)"] * 4 + ["0", "1", "1"], result.stderr


def test_memory_is_writable_or_executable_after_confining(child: Child) -> None:
    """Without the filter as well, which comes later: see prctl(2), PR_SET_MDWE."""
    result = child(
        "import ctypes, mmap\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "memory = mmap.mmap(-1, 4096)\n"
        "address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))\n"
        "print(libc.mprotect(address, 4096, 5), libc.mprotect(address, 4096, 3))\n"
        "sandbox.confine()\n"
        "print(libc.mprotect(address, 4096, 5), ctypes.get_errno())\n"
    )
    assert result.stdout.splitlines() == ["0 0", "-1 13"], result.stderr


@needs_root
def test_a_confined_process_cannot_be_read_by_its_own_user(child: Child) -> None:
    """Its memory has the secret key, and other programs of that user may be hostile."""
    look = (
        "import os\n"
        "sandbox.confine() if {confine} else None\n"
        "parent = os.getpid()\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        os.close(os.open(f'/proc/{{parent}}/mem', os.O_RDONLY))\n"
        "        print('readable', flush=True)\n"
        "    except PermissionError:\n"
        "        print('refused', flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    wrapper = (*AS_NOBODY, *NO_CAPS, *NNP)
    assert child(look.format(confine=False), *wrapper).stdout == "readable\n"
    assert child(look.format(confine=True), *wrapper).stdout == "refused\n"


def test_only_named_descriptors_stay_open(child: Child) -> None:
    result = child(
        "import os\n"
        "fds = [os.dup(1) for _ in range(20)]\n"
        "high = 200; os.dup2(1, high)\n"
        "keep = (fds[3], high, fds[7])\n"
        "sandbox.close_all_but(*keep)\n"
        "left = []\n"
        "for fd in range(1024):\n"
        "    try:\n"
        "        os.fstat(fd)\n"
        "    except OSError:\n"
        "        continue\n"
        "    left.append(fd)\n"
        "print(left == [0, 1, 2, *sorted(keep)], left)\n"
    )
    assert result.stdout.startswith("True"), (result.stdout, result.stderr)


def test_nothing_named_leaves_the_standard_three(child: Child) -> None:
    result = child(
        "import os\n"
        "os.dup2(1, 500)\n"
        "sandbox.close_all_but()\n"
        "try:\n"
        "    os.fstat(500)\n"
        "except OSError:\n"
        "    print('closed')\n"
    )
    assert result.stdout == "closed\n", result.stderr


def test_the_check_believes_nobody_but_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set of capabilities that it has counts, also those that are empty anyway."""
    monkeypatch.setattr(os, "getresuid", lambda: (1, 1, 1))
    monkeypatch.setattr(os, "getresgid", lambda: (1, 1, 1))
    monkeypatch.setattr(os, "getgroups", list)
    sets = ("CapInh", "CapPrm", "CapEff", "CapAmb")
    for guilty in sets:
        lines = [f"{name}:\t{'0000000000000400' if name == guilty else '0' * 16}" for name in sets]
        monkeypatch.setattr(
            process, "_status", lambda lines=lines: "\n".join([*lines, "NoNewPrivs:\t1"])
        )
        with pytest.raises(sandbox.TooPowerfulError, match=f"{guilty} 0000000000000400"):
            sandbox.check()
