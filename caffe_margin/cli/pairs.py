"""``caffe-margin pairs``: the accuracy of features on pairs of faces, by published protocols."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from caffe_margin.cli.common import (
    Commands,
    add_command,
    add_json,
    file_name,
    positive,
    print_json,
    show_path,
)
from caffe_margin.cli.run import BATCH, MIRRORED, add_preprocessing, run_images
from caffe_margin.files.visible import visible

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from caffe_margin.files.pairs_list import ListedPair
    from caffe_margin.study.pair_features import PairFeatures
    from caffe_margin.study.pairs import Curve, Evaluation

NAMES = ("sphereface", "sphereface_pytorch", "insightface")
OF_NET = ("weights", "root", "like", "mean", "scale", "size", "resize", "rgb", "batch")
"""The options that --net alone looks at."""


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "pairs",
        run,
        summary="the accuracy of features on pairs of faces, as on LFW",
        description=(
            "Say of each pair of images whether they are of one person, and print how often that\n"
            "is right, as the published codes compute it: the SphereFace authors', clcarwin's\n"
            "sphereface_pytorch and insightface. They do not agree on the same features.\n\n"
            "PAIRS is a list like LFW's pairs.txt. The features are those that `caffe-margin run`\n"
            "wrote, or those of --net on the images below --root; with --mirror, or a blob\n"
            "NAME_mirrored in the file, the mirrored images count as each protocol has it.\n"
            "Images are known by folder and name; their ending does not matter."
        ),
        example="caffe-margin pairs pairs.txt --features fc5.npz --protocol all --report build/lfw",
    )
    command.add_argument("pairs", metavar="PAIRS", type=file_name, help="a list like pairs.txt")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--features", metavar="F.npz", type=file_name, help="what `caffe-margin run` wrote"
    )
    source.add_argument("--net", metavar="NET", type=file_name, help="a net to run on the images")
    command.add_argument(
        "--mirrored", metavar="F.npz", type=file_name, help="a file of the mirrored images' own"
    )
    command.add_argument(
        "--weights", metavar="FILE", type=file_name, help="the net's, a .caffemodel or .h5"
    )
    command.add_argument("--blob", metavar="NAME", help="the features (default: the only blob)")
    command.add_argument(
        "--protocol",
        choices=[*NAMES, "all"],
        default="sphereface",
        help="(default: sphereface)",
    )
    command.add_argument(
        "--folds",
        metavar="N",
        type=positive,
        help="N folds, one after the other (default: the protocol's own, of 600 pairs each or 10)",
    )
    command.add_argument(
        "--report", metavar="DIR", type=file_name, help="write pictures and every number there"
    )
    add_preprocessing(command)
    command.add_argument(
        "--batch",
        metavar="N",
        type=positive,
        help=f"images that are run at once (default: {BATCH})",
    )
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Print the accuracies."""
    from caffe_margin.files.npz import read_arrays
    from caffe_margin.files.pairs_list import read_pairs
    from caffe_margin.study.pair_features import pair_features
    from caffe_margin.study.pairs import evaluate, roc

    given = [f"--{name}" for name in OF_NET if getattr(options, name) not in (None, False)]
    if options.features and given:
        raise ValueError(f"{' and '.join(given)}: for --net; the features of --features are made")
    listed = read_pairs(options.pairs)
    arrays = read_arrays(options.features) if options.features else _run_net(options, listed)
    mirrored = read_arrays(options.mirrored) if options.mirrored else None
    found = pair_features(listed, arrays, options.blob, mirrored)
    if options.mirror and found.left_mirror is None:
        raise ValueError(
            f"{options.features}: no blob {found.blob + MIRRORED!r} for --mirror; "
            "`caffe-margin run --mirror` writes it"
        )
    names = NAMES if options.protocol == "all" else (options.protocol,)
    sides = found.left, found.right, found.same
    fold = _folds(len(listed), options.folds, names)
    evaluations = [
        evaluate(name, *sides, fold, found.left_mirror, found.right_mirror) for name in names
    ]
    curves = {made.protocol: roc(made.scores, found.same) for made in evaluations}
    answer = _answer(options, found, evaluations, curves)
    if options.report:
        _write_report(options.report, found, evaluations, curves, answer)
    if options.json:
        print_json(answer)
        return 0
    _say(options, found, evaluations, curves)
    return 0


def _folds(pairs: int, folds: int | None, names: Sequence[str]) -> NDArray | None:
    """Return folds one after the other, of sizes that differ by one at most; None for the own."""
    import numpy as np

    from caffe_margin.study.pairs import PROTOCOLS

    if folds and folds > pairs:
        raise ValueError(f"{folds} folds of {pairs} pairs; a fold has at least one")
    fold = np.arange(pairs) * folds // pairs + 1 if folds else None
    for name in names:
        own = PROTOCOLS[name][0](pairs) if fold is None else fold
        if own.min() == own.max():
            raise ValueError(
                f"{pairs} pairs: there is one fold; a threshold is found on the others: give "
                "--folds N, 2 or more"
            )
    return fold


def _run_net(options: argparse.Namespace, listed: Sequence[ListedPair]) -> dict[str, NDArray]:
    """Return the features of the images in the list, as `caffe-margin run` writes them."""
    from caffe_margin.cli.memory import keep_memory
    from caffe_margin.files.prototxt import read_net
    from caffe_margin.torch.features import Features

    keep_memory()
    blobs = [options.blob] if options.blob else []
    features = Features(read_net(options.net), options.weights, blobs)
    names = dict.fromkeys(name for pair in listed for name in (pair.left, pair.right))
    options.images = [_file_of(os.path.join(options.root or "", name)) for name in names]
    options.batch = options.batch or BATCH
    errors: dict[str, str] = {}
    arrays = run_images(options, features, errors)
    for path, reason in errors.items():
        more = f"; {len(errors) - 1} more images of the list are bad" if len(errors) > 1 else ""
        raise ValueError(f"{path}: {reason}{more}")
    return arrays


def _file_of(path: str) -> str:
    """Return the file of an image, or else the one that differs in the ending alone.

    Raises:
        ValueError: there are two of these.
    """
    from caffe_margin.torch.images import ENDINGS

    folder, name = os.path.split(path)
    if os.path.exists(path) or not os.path.isdir(folder):
        return path
    stem = PurePath(name).stem
    found = sorted(
        other
        for other in os.listdir(folder)
        if PurePath(other).stem == stem and other.lower().endswith(ENDINGS)
    )
    if len(found) > 1:
        raise ValueError(f"image {path!r} of the list may be {found[0]!r} or {found[1]!r}")
    return os.path.join(folder, *found) if found else path


def _answer(
    options: argparse.Namespace,
    found: PairFeatures,
    evaluations: Sequence[Evaluation],
    curves: Mapping[str, Curve],
) -> dict[str, Any]:
    from caffe_margin.study.pairs import FARS

    return {
        "pairs": len(found.same),
        "same": int(found.same.sum()),
        "images": found.images,
        "blob": found.blob,
        "features": found.left.shape[1],
        "mirrored": found.left_mirror is not None,
        "report": options.report,
        "protocols": [
            {
                "protocol": made.protocol,
                "mean_accuracy": made.mean_accuracy,
                "std_accuracy": made.std_accuracy,
                "threshold": made.threshold.tolist(),
                "accuracy": made.accuracy.tolist(),
                "auc": curves[made.protocol].auc,
                "eer": curves[made.protocol].eer,
                "tar_at_far": {f"{far:g}": curves[made.protocol].tar_at(far) for far in FARS},
            }
            for made in evaluations
        ],
    }


def _say(
    options: argparse.Namespace,
    found: PairFeatures,
    evaluations: Sequence[Evaluation],
    curves: Mapping[str, Curve],
) -> None:
    from caffe_margin.cli import tables

    same = int(found.same.sum())
    mirrored = "" if found.left_mirror is None else ", and of each mirrored"
    print(f"pairs     {len(found.same)}, {same} of the same person; {found.images} images")
    print(f"features  {visible(found.blob)}, {found.left.shape[1]} numbers an image{mirrored}\n")
    tables.console().print(tables.pairs_table(evaluations, curves))
    print("\nthreshold and accuracy of each fold\n")
    tables.console().print(tables.folds_table(evaluations))
    if options.report:
        print(f"\nthe pictures are in\n{show_path(options.report)}")


def _write_report(
    folder: str,
    found: PairFeatures,
    evaluations: Sequence[Evaluation],
    curves: Mapping[str, Curve],
    answer: Mapping[str, Any],
) -> None:
    """Write the pictures, and every number."""
    from caffe_margin.report import figures
    from caffe_margin.report.folder import INDEX, PROGRAM, staging_folder
    from caffe_margin.report.pairs_figure import draw_roc, draw_scores

    with staging_folder(folder) as staged:
        with figures.style():
            drawn = {
                "roc.png": draw_roc(curves),
                "scores.png": draw_scores(evaluations, found.same),
            }
        for name, figure in drawn.items():
            figures.save(figure, staged / name)
        program = f"{PROGRAM} {metadata.version('caffe_margin')}"
        index = {"made_by": program, "files": sorted([INDEX, *drawn]), **answer}
        (staged / INDEX).write_text(json.dumps(index, allow_nan=False, indent=1), "utf-8")
