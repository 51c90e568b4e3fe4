"""What a worker does to itself before it serves, and the check that it holds no power.

It speaks to the network and to whoever uses the mount, and somebody may find a way to have it do
what they like. What it has no use for is given up, in layers that do not depend on each other or
on who started it: `allowed` and `files` are the table of what is left, `level` has the layers.
"""

from fuse_s3_worker.sandbox.confine import confine, enter
from fuse_s3_worker.sandbox.files import Needs
from fuse_s3_worker.sandbox.level import LAYERS, Layer, Level, Mode, NotConfinedError
from fuse_s3_worker.sandbox.process import TooPowerfulError, check, close_all_but
from fuse_s3_worker.sandbox.unit import unit_lines

__all__ = [
    "LAYERS",
    "Layer",
    "Level",
    "Mode",
    "Needs",
    "NotConfinedError",
    "TooPowerfulError",
    "check",
    "close_all_but",
    "confine",
    "enter",
    "unit_lines",
]
