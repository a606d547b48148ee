"""tools/bench.py: on shapes too small to time anything, and with a clock of our own."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

import bench

GRID = ["--M", "6", "--N", "9", "2e1", "--K", "8", "--seconds", "0"]


# A peer's, not ours.
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_path, plot_path = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = [*GRID, "--json", str(report_path)]
    if importlib.util.find_spec("matplotlib"):
        arguments += ["--plot", str(plot_path)]
    assert bench.main(arguments) == 0
    report = json.loads(report_path.read_text())

    assert set(report) == {"machine", "rows", "million"}
    assert report["million"] == []
    assert report["machine"]["cores"] >= 1
    rows = report["rows"]
    cells = {json.dumps(row["cell"], sort_keys=True) for row in rows}
    # Tasks, N, dtypes, types and rules.
    assert len(cells) == 2 * 2 * 2 * 4 * 2
    assert {row["cell"]["N"] for row in rows} == {9, 20}
    for row in rows:
        passes = {"forward", "backward", "both"} if row["cell"]["task"] == "layer" else {"both"}
        assert row["repetitions"] == 3
        assert set(row["seconds"]) == set(row["ratio"]) == passes
        assert all(math.isfinite(v) and v > 0 for v in (*row["seconds"].values(),))
        assert all(math.isfinite(v) and v > 0 for v in (*row["ratio"].values(),))
        if row["contestant"] == "bare products":
            assert set(row["ratio"].values()) == {1}
        # Every contestant computes the same, whoever wrote it, but for L-Softmax.
        tolerance = {"float32": 1e-4, "float64": 1e-11}[row["cell"]["dtype"]]
        assert row["differs"] is None or row["differs"] < tolerance, row
        if row["contestant"] == "L-Softmax, fused":
            assert row["differs"] is None
    assert all(len(bench.LOOKS) >= len(contestants) for contestants in bench.TASKS.values())
    for task, others in {"layer": 2, "loss": 1}.items():
        mine = [row for row in rows if row["cell"]["task"] == task and row["differs"] is not None]
        assert len(mine) >= 32 / 2 * others
    assert "line_by_line" in capsys.readouterr().out
    if "--plot" in arguments:
        assert plot_path.read_bytes().startswith(b"\x89PNG")


def test_race_runs_everyone_in_each_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Scripted:
        def __init__(self, *seconds: float) -> None:
            self.seconds = iter(seconds)

        def forward(self) -> None:
            nonlocal now
            now += next(self.seconds)

        backward = forward

    monkeypatch.setattr(bench, "perf_counter", lambda: now)
    running = {
        bench.BARE: Scripted(1, 2, 10, 20, 100, 200, 1, 1),
        "other": Scripted(2, 3, 20, 20, 200, 200, 2, 1),
        "slow": Scripted(9, 9, 90, 90, 900, 900),
    }
    times = bench.race(running, 446)
    assert times["other"].tolist() == [[2, 3, 5], [20, 20, 40], [200, 200, 400], [2, 1, 3]]
    # Three repetitions are enough for the slow one; the other has had 445 seconds in three. The
    # bare products ran in every repetition, and in no more.
    assert {name: len(runs) for name, runs in times.items()} == {
        bench.BARE: 4,
        "other": 4,
        "slow": 3,
    }


def test_a_ratio_is_a_median_of_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {
        # A fourth repetition, in which fused did not run.
        "bare products": [[0.5, 0.5, 1], [5, 5, 10], [1, 1, 2], [7, 7, 14]],
        "fused": [[1, 2, 3], [1, 9, 10], [1, 7, 8]],
    }
    monkeypatch.setattr(bench, "race", lambda *_: {name: np.array(t) for name, t in times.items()})
    cell = bench.Cell("layer", 4, 5, 3, "float64", "TRIPLE", "exact")
    _, fused = bench.measure(cell, 0, names=times)
    assert fused.seconds == {"forward": 1, "backward": 7, "both": 8}
    # Both: 3, 1 and 4 times the bare products; the medians are 8 and 2 seconds, 4 to 1.
    assert fused.ratio == {"forward": 1, "backward": 4, "both": 3}


def test_bare_products_need_no_memory_and_plain_numpy_needs_arrays() -> None:
    cell = bench.Cell("layer", 64, 500, 8, "float64", "QUADRUPLE", "paper")
    inputs = bench.draw(64, 500, 8, "float64")
    extra = {
        name: bench.extra_bytes(bench.TASKS["layer"][name](cell, inputs))
        for name in ("bare products", "fused", "plain numpy")
    }
    array = 64 * 500 * 8
    # Python's own objects are a few thousand bytes.
    assert 0 <= extra["bare products"] < 0.05 * array
    # coeff_w, coeff_x, cos_theta and psi at the least, M x N each.
    assert extra["plain numpy"] > 4 * array
    assert 0 <= extra["fused"] < array


def test_what_would_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MOST_STEPS", 6 * 20 * 8 - 1)
    cell = bench.Cell("layer", 6, 20, 8, "float32", "DOUBLE", "paper")
    rows = {row.contestant: row for row in bench.measure(cell, 0)}
    assert rows["line_by_line"] == bench.Row(cell, "line_by_line")
    assert rows["plain numpy"].repetitions == 3


def test_million_at_a_small_size_in_its_own_process() -> None:
    np.ones(150_000_000)  # 1.2 GB, which are this process's, and gone
    result = bench.in_new_process((4, 30, 8), "exact")
    assert (result["M"], result["N"], result["K"], result["rule"]) == (4, 30, 8, "exact")
    assert result["seconds"] > 0
    # Python with numpy, numba left out: tens of megabytes, and not a gigabyte.
    assert 1e7 < result["peak_rss_bytes"] < 1e9


@pytest.mark.parametrize("argument", ["0", "1.5", "many", "inf"])
def test_a_size_is_a_positive_whole_number(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        bench.main(["--N", argument])
    assert exit_.value.code == 2
    assert "--N" in capsys.readouterr().err


def test_no_folder_to_write_in_is_known_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        bench.main([*GRID, "--json", str(tmp_path / "none" / "bench.json")])
    assert exit_.value.code == 2
    assert "none" in capsys.readouterr().err
