"""The Python of the control protocol is that of its description, and the service has every method.

Checked in, so that an installation needs no compiler: these see that it is not forgotten.
"""

import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from pydantic import BaseModel

import write_protocol
from fuse_s3_cli import models
from fuse_s3_control import control_pb2 as pb
from fuse_s3_worker.control import service

ROOT = Path(__file__).resolve().parent.parent.parent
PROTO = (ROOT / "worker/fuse_s3_control/control.proto").read_text()

MODELS: dict[str, type[BaseModel]] = {
    "StatusReply": models.Status,
    "Option": models.Option,
    "Sandbox": models.Sandbox,
    "Memory": models.Memory,
    "Handles": models.Handles,
    "DirtyFile": models.DirtyFile,
    "Times": models.Times,
    "Kernel": models.Kernel,
    "Store": models.Store,
    "Rename": models.Rename,
}


def test_what_is_generated_is_what_the_description_says() -> None:
    assert write_protocol.stale() == [], "run: tools/write_protocol.py"


def test_a_changed_description_is_noticed(tmp_path: Path) -> None:
    top = tmp_path / "worker"
    shutil.copytree(ROOT / "worker/fuse_s3_control", top / "fuse_s3_control")
    source = top / "fuse_s3_control/control.proto"
    source.write_text(PROTO.replace("uint32 restarts = 6", "uint32 respawns = 6"))
    assert write_protocol.stale(top) == list(write_protocol.GENERATED)


def test_every_method_of_the_description_is_served() -> None:
    described = set(re.findall(r"rpc (\w+)\(", PROTO))
    served = set(service._methods(Mock()))
    assert served == described
    package = re.search(r"package ([\w.]+);", PROTO)
    assert package is not None
    name = service._SERVICE
    assert name == f"{package[1]}.Control"


@pytest.mark.parametrize("name", MODELS)
def test_what_json_prints_has_every_field_of_the_message(name: str) -> None:
    message, model = getattr(pb, name).DESCRIPTOR, MODELS[name]
    assert list(model.model_fields) == [field.name for field in message.fields]


def test_field_numbers_are_those_of_the_first_release() -> None:
    """Fields are only ever added: a command and a worker of two releases may meet."""
    numbers = {field.name: field.number for field in pb.StatusReply.DESCRIPTOR.fields}
    known = {"spec": 1, "pid": 4, "restarts": 6, "kernel": 16, "recovering": 20}
    assert known.items() <= numbers.items()
