"""Both ends of the handoff against a fuzzer that sees which code it came to:  make fuzz

No crash: whatever one end does not expect becomes its error. No hang: libFuzzer ends what takes
longer than -timeout. No descriptor is left open. What fails is kept beside the corpus.
"""

import asyncio
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fuse_s3_shared", "fuse_s3_helper", "fuse_s3_worker"]):
    from support.conversations import ENDS, from_bytes, to_bytes
    from support.isolation import open_descriptors

_LOOK_EVERY = 256  # cases: looking takes as long as ten of them


class Target:
    """What is called with each case."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._before = open_descriptors()
        self._cases = 0

    def __call__(self, data: bytes) -> None:
        """Let one end hear it."""
        end, packets = from_bytes(data)
        ENDS[end][1](packets, self._runner)
        self._cases += 1
        if self._cases % _LOOK_EVERY == 0 and open_descriptors() != self._before:
            raise AssertionError(f"left open: {open_descriptors().items() - self._before.items()}")


def main() -> None:
    """Begin with conversations as they should be, in the corpus that the last word names."""
    corpus = Path(sys.argv[-1])
    corpus.mkdir(parents=True, exist_ok=True)
    for end, (packets, _) in ENDS.items():
        for count in range(1, len(packets) + 1):
            (corpus / f"{end}-{count}").write_bytes(to_bytes(end, packets[:count]))
    with asyncio.Runner() as runner:
        runner.get_loop()
        atheris.Setup(sys.argv, Target(runner))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
