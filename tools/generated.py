"""What the tools that generate files share: write them, or say which are stale."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(description: str | None, generate: Callable[[], Mapping[Path, str]], command: str) -> int:
    """Write the files that ``generate`` returns where they differ; with --check, write nothing.

    Args:
        description: for --help.
        generate: returns every file's text.
        command: what regenerates them, to say so.

    Returns:
        The exit status: 1 where --check found a stale file.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check

    stale = 0
    for path, text in generate().items():
        if path.exists() and path.read_text() == text:
            continue
        stale = 1
        if check:
            print(f"{path.relative_to(ROOT)} is stale: run {command}")
        else:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return stale if check else 0
