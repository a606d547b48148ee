"""tools/bench_sharded.py, on heads too small to measure anything."""

import pytest

import bench_sharded


def test_a_line_for_each_run(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--processes 1 --classes 30 50 --features 4 --batch 6 --block 16 --steps 1"
    bench_sharded.main(arguments.split())
    out = capsys.readouterr().out
    assert "K = 4, M = 6, paper" in out
    lines = [line.split("│") for line in out.splitlines() if line.startswith("│")]
    assert [line[1].strip() for line in lines] == ["30", "50"]
    assert all(float(line[-2]) >= 0 for line in lines)


def test_the_formulas() -> None:
    run = bench_sharded.Run(W=2, N=1_000_000, K=512, M=256, block=8192, gradient="exact", steps=1)
    weight = 4 * 500_000 * 512
    assert 3 * weight < bench_sharded.memory(run) < 3.1 * weight
    # A ring sends all but one process's part of the features once to gather them, and of their
    # gradient twice to sum it up.
    assert bench_sharded.traffic(run) == pytest.approx(3 * 4 * 256 * 512 / 2, rel=0.01)
    alone = bench_sharded.Run(W=1, N=9, K=4, M=6, block=8, gradient="paper", steps=1)
    assert bench_sharded.traffic(alone) == 0
