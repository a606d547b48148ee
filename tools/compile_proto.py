"""Generate caffe_margin/caffe_margin_pb2.py and its stub from proto/caffe_margin.proto.

protoc's own Python output is tied to the runtime that is at least as new as the compiler.
The schema itself is not: a serialized descriptor is read by every protobuf runtime. So the
module written here holds the descriptor and asks the installed runtime to build the classes.

    python tools/compile_proto.py            # write both files
    python tools/compile_proto.py --check    # exit 1 when they are stale
"""

from __future__ import annotations

import sys
import tempfile
from importlib import resources
from pathlib import Path

import generated

PROTO = generated.ROOT / "proto" / "caffe_margin.proto"
PACKAGE = generated.ROOT / "caffe_margin"

MODULE = '''\
"""Generated from proto/caffe_margin.proto by tools/compile_proto.py. Do not edit."""

from google.protobuf import descriptor_pool
from google.protobuf.internal import builder

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(
{descriptor}
)
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, __name__, globals())
'''


def compile_proto() -> dict[Path, str]:
    """Return the text of every generated file.

    Raises:
        RuntimeError: protoc refused the schema (its message is on standard error).
    """
    from google.protobuf import descriptor_pb2
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        descriptor_set = Path(folder) / "descriptor_set"
        arguments = [
            "protoc",
            f"--proto_path={PROTO.parent}",
            f"--proto_path={resources.files('grpc_tools') / '_proto'}",
            f"--descriptor_set_out={descriptor_set}",
            f"--pyi_out={folder}",
            PROTO.name,
        ]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc could not compile {PROTO}")
        (file,) = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set.read_bytes()).file
        stub = (Path(folder) / "caffe_margin_pb2.pyi").read_text()

    serialized = file.SerializeToString(deterministic=True)
    lines = [f"    {serialized[i : i + 60]!r}" for i in range(0, len(serialized), 60)]
    return {
        PACKAGE / "caffe_margin_pb2.py": MODULE.format(descriptor="\n".join(lines)),
        PACKAGE / "caffe_margin_pb2.pyi": stub,
    }


if __name__ == "__main__":
    sys.exit(generated.main(__doc__, compile_proto, "python tools/compile_proto.py"))
