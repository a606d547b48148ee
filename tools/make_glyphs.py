"""Make the glyphs: a set of characters to train on and of others to verify by, with no download.

    python tools/make_glyphs.py glyphs                     # LMDB, 1,500 + 560 characters
    python tools/make_glyphs.py glyphs --format images     # PNG files, with a list of them
    python tools/make_glyphs.py numerals --characters 0123456789 --images 500

The identity is the character, the pose is how it is drawn: in one of the twelve DejaVu typefaces
that matplotlib ships, shifted, slanted, scaled, and with noise. The characters are the letters,
numerals and symbols (Unicode's L, N and S) that all twelve typefaces have, as far as they differ
by picture in the upright Sans: 2,060 of them. OUT then holds

    train/  or train.h5       images of the characters to train on, in mixed order
    unseen/ or unseen.h5      images of characters that are never trained on, in order
    characters.txt            label, code point and set of each character

With --characters there are just these, all to train on and labelled in their order, and no unseen.
Images are 32 x 32, grey. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import cv2
import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track

from caffe_margin import caffe_margin_pb2 as pb

SIZE = 32
CANVAS = 96
"""Glyphs are drawn on this many pixels first, at `POINTS`, and then brought to `SIZE`."""
POINTS = 48.0

SHIFT = 2.5
SLANT = 0.35
SCALE = (0.8, 1.25)
NOISE = 20.0

Image8: TypeAlias = NDArray[np.uint8]


def typefaces() -> list[Path]:
    """Return the files of the twelve: Sans, Mono and Serif, upright and slanted, plain and bold."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(path for path in folder.glob("DejaVu*.ttf") if "Display" not in path.name)


def characters(paths: list[Path]) -> list[str]:
    """Return the characters that all typefaces have and that look different from each other."""
    shared = set.intersection(*(set(FT2Font(str(path)).get_charmap()) for path in paths))
    upright = next(path for path in paths if path.name == "DejaVuSans.ttf")
    font = ImageFont.truetype(str(upright), 64, layout_engine=ImageFont.Layout.BASIC)
    pictures: dict[tuple[tuple[int, int], bytes], str] = {}
    for code in sorted(shared):
        if unicodedata.category(chr(code))[0] in "LNS":
            mask = font.getmask(chr(code), mode="L")
            if any(picture := bytes(mask)):
                pictures.setdefault((mask.size, picture), chr(code))
    return list(pictures.values())


def named(text: str, paths: list[Path]) -> list[str]:
    """Return the characters of a text, each of which must be there once and be drawable."""
    drawable = set(characters(paths))
    for i, character in enumerate(text):
        if character not in drawable:
            raise SystemExit(
                f"--characters: U+{ord(character):04X} is none of the letters, numerals and "
                "symbols that all twelve typefaces have and that differ by picture"
            )
        if character in text[:i]:
            raise SystemExit(f"--characters: {character!r} is there twice")
    if not text:
        raise SystemExit("--characters is empty: name at least one")
    return list(text)


class Drawer:
    """Draws a character in a pose."""

    def __init__(self, paths: list[Path]) -> None:
        self.fonts = [
            ImageFont.truetype(str(path), POINTS, layout_engine=ImageFont.Layout.BASIC)
            for path in paths
        ]

    def draw(self, character: str, count: int, rng: np.random.Generator) -> Image8:
        """Return images of a character, (count, SIZE, SIZE)."""
        faces = rng.integers(len(self.fonts), size=count)
        plain = {face: self._plain(character, self.fonts[face]) for face in set(faces.tolist())}
        images = np.empty((count, SIZE, SIZE), np.uint8)
        for i, face in enumerate(faces.tolist()):
            scale = rng.uniform(*SCALE) * SIZE / CANVAS * 1.25
            slant = rng.uniform(-SLANT, SLANT)
            shift = rng.uniform(-SHIFT, SHIFT, 2) + SIZE / 2
            linear = scale * np.array([[1, slant], [0, 1]])
            centre = np.array([CANVAS / 2, CANVAS / 2])
            matrix = np.column_stack([linear, shift - linear @ centre])
            image = cv2.warpAffine(plain[face], matrix, (SIZE, SIZE)).astype(np.float64)
            image += rng.normal(0, NOISE, image.shape)
            images[i] = np.clip(image, 0, 255).round()
        return images

    @staticmethod
    def _plain(character: str, font: ImageFont.FreeTypeFont) -> Image8:
        """Return a character in the middle of the canvas, smoothed for the smaller size."""
        image = Image.new("L", (CANVAS, CANVAS))
        middle = (CANVAS / 2, CANVAS / 2)
        left, top, right, bottom = font.getbbox(character)
        at = (middle[0] - (left + right) / 2, middle[1] - (top + bottom) / 2)
        ImageDraw.Draw(image).text(at, character, fill=255, font=font)
        return np.asarray(cv2.GaussianBlur(np.asarray(image), (0, 0), 0.8), np.uint8)


Examples: TypeAlias = list[tuple[Image8, int]]


def write_lmdb(path: Path, examples: Examples) -> None:
    """Write Datums as convert_imageset does: keys are the place and a name."""
    import lmdb

    path.mkdir()
    with (
        lmdb.open(str(path), map_size=1 << 30, lock=False) as database,
        database.begin(write=True) as transaction,
    ):
        for i, (image, label) in enumerate(examples):
            datum = pb.Datum(channels=1, height=SIZE, width=SIZE, data=image.tobytes(), label=label)
            transaction.put(f"{i:08d}_{label}".encode(), datum.SerializeToString())


def write_hdf5(path: Path, examples: Examples) -> None:
    """Write what HDF5Data reads, which transforms nothing: (x - 127.5) / 128."""
    import h5py

    with h5py.File(path.with_suffix(".h5"), "w", track_order=True) as file:
        images = np.stack([image for image, _ in examples])[:, None].astype(np.float32)
        file["data"] = (images - 127.5) / 128
        file["label"] = np.array([label for _, label in examples], np.float32)
    path.with_suffix(".txt").write_text(f"{path.with_suffix('.h5').name}\n")


def write_images(path: Path, examples: Examples) -> None:
    """Write PNG files, and the list that ImageData reads."""
    path.mkdir()
    lines = []
    for i, (image, label) in enumerate(examples):
        name = f"{i:06d}.png"
        if not cv2.imwrite(str(path / name), image):
            raise OSError(f"{path / name}: could not be written")
        lines.append(f"{name} {label}\n")
    (path / "list.txt").write_text("".join(lines))


FORMATS: dict[str, Callable[[Path, Examples], None]] = {
    "lmdb": write_lmdb,
    "hdf5": write_hdf5,
    "images": write_images,
}


def make(options: argparse.Namespace) -> None:
    """Draw all characters and write both sets; OUT appears whole or not at all."""
    paths = typefaces()
    rng = np.random.default_rng(options.seed)
    if options.characters is None:
        everything = characters(paths)
        if not 0 < options.train < len(everything):
            raise SystemExit(f"--train must lie in [1, {len(everything) - 1}]")
        order, train = rng.permutation(len(everything)), options.train
    else:
        everything = named(options.characters, paths)
        order, train = np.arange(len(everything)), len(everything)
    drawer = Drawer(paths)
    sets: dict[str, Examples] = {}
    lines = []
    for place in track(range(len(order)), "glyphs", transient=True):
        seen = place < train
        name, label = ("train", place) if seen else ("unseen", place - train)
        character = everything[order[place]]
        count = options.images if seen else options.unseen_images
        images = drawer.draw(character, count, np.random.default_rng([options.seed, place]))
        sets.setdefault(name, []).extend((image, label) for image in images)
        lines.append(f"{label}\tU+{ord(character):04X}\t{name}\n")
    shuffled = [sets["train"][i] for i in rng.permutation(len(sets["train"]))]
    sets["train"] = shuffled
    for folder in _appearing(options.out):
        for name, examples in sets.items():
            FORMATS[options.format](folder / name, examples)
        (folder / "characters.txt").write_text("".join(lines))
    counts = ", ".join(f"{len(examples)} images {name}" for name, examples in sets.items())
    print(f"{options.out}: {len(everything)} characters, {counts}")


def _appearing(out: Path) -> Iterator[Path]:
    """Yield a folder beside ``out`` that takes its place when it is filled."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".glyphs-", dir=out.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        os.replace(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder, replaced if it exists")
    parser.add_argument("--format", choices=FORMATS, default="lmdb", help="(default: lmdb)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--train", type=int, default=1500, help="characters to train on (default: 1500)"
    )
    which.add_argument(
        "--characters", metavar="TEXT", help="train on just these, in this order; none is unseen"
    )
    parser.add_argument("--images", type=int, default=24, help="of each to train on (default: 24)")
    parser.add_argument(
        "--unseen-images", type=int, default=8, help="of each of the others (default: 8)"
    )
    make(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
