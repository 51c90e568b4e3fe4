"""What a worker does to itself, and the check that it holds no power. In children of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuse_s3_worker import sandbox

# The clone may lie, with its environment, where only root can go: others get the text of the
# module, and the interpreter that everybody has.
SOURCE = Path(sandbox.__file__).read_text()
PYTHON = str(Path(sys.executable).resolve())

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def child(code: str, *, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter, behind a `wrapper` that takes powers away."""
    prelude = (
        f"import types\nsandbox = types.ModuleType('sandbox')\nexec({SOURCE!r}, sandbox.__dict__)\n"
    )
    return subprocess.run(
        [*wrapper, PYTHON, "-c", prelude + code],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )


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
        ((*AS_NOBODY, *NNP), "the worker has capabilities: CapBnd "),
        (
            (*AS_NOBODY, "--inh-caps=+net_raw", "--ambient-caps=+net_raw", *NNP),
            "the worker has capabilities: CapInh ",
        ),
        ((*AS_NOBODY, *NO_CAPS), "the worker may gain privileges: no_new_privs is not set"),
        ((*AS_NOBODY, *NO_CAPS, *NNP), "powerless"),
    ],
)  # fmt: skip
def test_every_power_that_is_left_is_found(wrapper: tuple[str, ...], verdict: str) -> None:
    result = child(CHECK, wrapper=wrapper)
    assert result.stdout.startswith(verdict), (result.stdout, result.stderr)


def test_confining_forbids_core_dumps_and_looking_in() -> None:
    result = child(
        "import ctypes, resource\n"
        "sandbox.confine()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE))\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"  # PR_GET_DUMPABLE
    )
    assert result.stdout.splitlines() == ["(0, 0)", "0"], result.stderr


@needs_root
def test_a_confined_process_cannot_be_read_by_its_own_user() -> None:
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
    assert child(look.format(confine=False), wrapper=wrapper).stdout == "readable\n"
    assert child(look.format(confine=True), wrapper=wrapper).stdout == "refused\n"


def test_only_named_descriptors_stay_open() -> None:
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


def test_nothing_named_leaves_the_standard_three() -> None:
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
    """Every capability set counts, also those that today's helper leaves empty anyway."""
    monkeypatch.setattr(os, "getresuid", lambda: (1, 1, 1))
    monkeypatch.setattr(os, "getresgid", lambda: (1, 1, 1))
    monkeypatch.setattr(os, "getgroups", list)
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    for guilty in sets:
        lines = [f"{name}:\t{'0000000000000400' if name == guilty else '0' * 16}" for name in sets]
        monkeypatch.setattr(
            sandbox, "_status", lambda lines=lines: "\n".join([*lines, "NoNewPrivs:\t1"])
        )
        with pytest.raises(sandbox.TooPowerfulError, match=f"{guilty} 0000000000000400"):
            sandbox.check()
