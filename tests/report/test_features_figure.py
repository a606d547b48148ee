"""The picture of features: that the points are where the features are."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from caffe_margin.report import figures
from caffe_margin.report.features_figure import COLOURS, draw_features

N, EACH = 4, 6


def a_panel(dimensions, seed):
    """Features about their class's axis, of which no two point the same way."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(N, dimensions))
    label = rng.permutation(np.repeat(np.arange(N), EACH))
    return 5 * weight[label] + rng.normal(size=(N * EACH, dimensions)), label, weight


def points(ax, i):
    """Return the points of a class, sorted, as they stand in the picture's data."""
    (line,) = (line for line in ax.lines if line.get_label() == str(i))
    data = line.get_data_3d() if hasattr(line, "get_data_3d") else line.get_data()
    assert line.get_color() == COLOURS[i]
    return np.array(sorted(zip(*data, strict=True)))


def rows(array):
    return np.array(sorted(array.tolist()))


def numbers(ax):
    """Return where each class's number stands."""
    return {
        int(text.get_text()): np.array(
            text.get_position_3d() if hasattr(text, "get_position_3d") else text.get_position()
        )
        for text in ax.texts
    }


def test_the_plane_and_the_circle(tmp_path):
    panels = {name: a_panel(2, seed) for seed, name in enumerate(["softmax", "m = 2", "m = 4"])}
    figure = draw_features(panels)
    above, below = figure.axes[:3], figure.axes[3:]
    assert [ax.get_title(loc="center") for ax in above] == list(panels)
    for plane, circle, (x, label, weight) in zip(above, below, panels.values(), strict=True):
        for i in range(N):
            own = x[label == i]
            np.testing.assert_array_equal(points(plane, i), rows(own))
            turn = np.arctan2(own[:, 1], own[:, 0])
            on_circle = np.column_stack([np.cos(turn), np.sin(turn)])
            np.testing.assert_allclose(points(circle, i), rows(on_circle), atol=1e-12)
        # A number stands where its weight points, in both.
        for ax in (plane, circle):
            found = numbers(ax)
            for i, (across, up) in enumerate(weight):
                assert np.arctan2(*found[i]) == pytest.approx(np.arctan2(across, up))
        (left, right), (bottom, top) = plane.get_xlim(), plane.get_ylim()
        assert (x > (left, bottom)).all()
        assert (x < (right, top)).all()
    figures.save(figure, tmp_path / "plane.png")
    assert (tmp_path / "plane.png").read_bytes().startswith(b"\x89PNG")


def test_the_bins_outside_of_the_circle_count_the_features():
    degrees = np.array([10.3] * 4 + [51.3] * 2 + [-100.7])
    label = np.array([0] * 6 + [1])
    x = np.column_stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    _, circle = draw_features({"a": (7 * x, label, np.eye(2))}).axes
    of_0, of_1 = (patch.get_xy() for patch in circle.patches)

    def height(polygon, at):
        turn = np.degrees(np.arctan2(polygon[:, 1], polygon[:, 0]))
        radius = np.linalg.norm(polygon, axis=1)
        return radius[abs(turn - at) < 3].max() - radius.min()

    highest = height(of_0, 10.3)
    assert highest > 0.2
    assert height(of_0, 51.3) == pytest.approx(highest / 2)
    assert height(of_1, -100.7) == pytest.approx(highest / 4)
    assert height(of_0, -100.7) == height(of_1, 10.3) == pytest.approx(0)


def test_the_sphere_from_both_sides(tmp_path):
    x, label, weight = a_panel(3, 0)
    figure = draw_features({"m = 4": (x, label, weight)})
    front, back = figure.axes
    for i in range(N):
        own = x[label == i]
        unit = own / np.sqrt((own**2).sum(axis=1, keepdims=True))
        both = [points(ax, i).reshape(-1, 3) for ax in (front, back)]
        np.testing.assert_allclose(rows(np.concatenate(both)), rows(unit), rtol=1e-12)
    # Each side holds what lies nearer to its eye, and the numbers of the weights that do.
    for ax in (front, back):
        figure.draw_without_rendering()
        eye = np.array([*ax._view_w])
        seen = np.concatenate([points(ax, i).reshape(-1, 3) for i in range(N)])
        assert (seen @ eye > 0).all()
        for i, at in numbers(ax).items():
            assert at @ eye > 0
            assert at @ weight[i] == pytest.approx(np.linalg.norm(at) * np.linalg.norm(weight[i]))
    assert sorted([*numbers(front), *numbers(back)]) == list(range(N))
    figures.save(figure, tmp_path / "sphere.png")
    assert (tmp_path / "sphere.png").read_bytes().startswith(b"\x89PNG")


def test_six_panels_stand_in_two_rows():
    panels = {name: a_panel(2, 1) for name in "abcdef"}
    figure = draw_features(panels)
    figure.draw_without_rendering()
    boxes = {ax.get_title(): ax.get_window_extent() for ax in figure.axes if ax.get_title()}
    assert boxes["a"].x0 == pytest.approx(boxes["d"].x0, abs=20)
    assert boxes["a"].x0 < boxes["b"].x0 < boxes["c"].x0
    assert boxes["d"].y1 < boxes["a"].y0
    assert figure.get_size_inches()[0] == figures.WIDTH


@pytest.mark.parametrize(
    ("sizes", "found"),
    [((), "no panel"), ((64,), "64 in '0'"), ((2, 3), "2 in '0', 3 in '1'")],
)
def test_what_cannot_be_drawn(sizes, found):
    panels = {str(i): a_panel(size, 0) for i, size in enumerate(sizes)}
    with pytest.raises(ValueError, match=f"in all panels: {found}"):
        draw_features(panels)
