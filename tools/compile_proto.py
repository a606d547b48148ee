"""Generate caffe_margin/caffe_margin_pb2.py and its stub from proto/caffe_margin.proto.

protoc's own Python output is tied to the runtime that is at least as new as the compiler.
The schema itself is not: a serialized descriptor is read by every protobuf runtime. So the
module written here holds the descriptor and asks the installed runtime to build the classes.

    python tools/compile_proto.py            # write both files
    python tools/compile_proto.py --check    # exit 1 when they are stale
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto" / "caffe_margin.proto"
PACKAGE = ROOT / "caffe_margin"

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


def main() -> int:
    """Run the command line described at the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check

    stale = 0
    for path, text in compile_proto().items():
        if path.exists() and path.read_text() == text:
            continue
        stale = 1
        if check:
            print(f"{path.relative_to(ROOT)} is stale: run python tools/compile_proto.py")
        else:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return stale if check else 0


if __name__ == "__main__":
    sys.exit(main())
