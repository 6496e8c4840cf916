"""Pictures of attention show every map, its words and its best, and nothing is cut off."""

import pytest
import torch
from helpers.attention import SENTENCE, letters, made_maps
from helpers.tiny import close, tiny
from matplotlib import image
from matplotlib.figure import Figure

from seqloom.attention.attend import attention_figure
from seqloom.attention.maps import draw_map, overview
from seqloom.figures.style import save


def assert_nothing_is_cut_off(figure):
    figure.draw_without_rendering()
    whole = figure.bbox
    for panel in figure.axes:
        box = panel.get_tightbbox()
        assert box.x0 >= whole.x0 - 1
        assert box.x1 <= whole.x1 + 1
        assert box.y0 >= whole.y0 - 1
        assert box.y1 <= whole.y1 + 1


class TestPicture:
    def test_words_on_the_axes_and_the_best_ringed(self):
        maps = made_maps(source=("a", "$b$", "c" * 40), target=("x", "y", "z", "⟨end⟩"))
        panel = Figure().subplots()
        image_ = draw_map(panel, maps.source_labels, maps.target_labels, maps.weights())
        assert [label.get_text() for label in panel.get_yticklabels()] == maps.target_labels
        assert [label.get_text() for label in panel.get_xticklabels()] == ["a", "$b$", "c" * 21 + "…"]
        assert not any(label.get_parse_math() for label in panel.get_xticklabels())
        close(torch.tensor(image_.get_array()), maps.weights())
        (rings,) = panel.lines
        assert list(rings.get_xdata()) == maps.weights().argmax(-1).tolist()
        assert list(rings.get_ydata()) == [0, 1, 2, 3]
        panel = Figure().subplots()
        draw_map(panel, maps.source_labels, maps.target_labels, maps.weights().tolist(), mark=False)
        assert not panel.lines
        with pytest.raises(ValueError, match=r"shape \(4, 3\), but there are 3 target and 4 source labels"):
            draw_map(panel, maps.target_labels, maps.source_labels, maps.weights())

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("layers", "heads", "choice", "expected"),
        [
            (1, 1, {}, 0),
            (1, 4, {}, 4),
            (3, 1, {}, 3),
            (3, 4, {}, 15),
            (6, 8, {}, 54),
            (12, 16, {}, 28),  # the mean of every layer, the heads of the last
            (3, 4, {"layer": 2}, 4),
            (3, 4, {"layer": 2, "head": 1}, 0),
            (3, 4, {"head": 1}, 0),
        ],
    )
    def test_panels(self, layers, heads, choice, expected):
        """The large one with its colour bar, then the small ones; all within the picture."""
        maps = made_maps(layers=layers, heads=heads)
        figure = overview(maps, **choice)
        shown = [panel for panel in figure.axes if panel.images]
        assert len(shown) == 1 + expected
        layer, head = choice.get("layer"), choice.get("head")
        close(torch.tensor(shown[0].images[0].get_array()), maps.weights("cross", layer, head))
        if (layers, heads) == (3, 4) and not choice:
            expected = torch.cat([torch.cat([some.mean(0, keepdim=True), some]) for some in maps.cross])
            close(torch.stack([torch.tensor(panel.images[0].get_array()) for panel in shown[1:]]), expected)
        if choice == {"layer": 2}:
            close(torch.stack([torch.tensor(panel.images[0].get_array()) for panel in shown[1:]]), maps.cross[1])
        assert_nothing_is_cut_off(figure)

    @pytest.mark.parametrize("last", ["w", "straightforwardnesses"])
    def test_wide_ones_have_room_at_the_right(self, last):
        """For the colour bar and its numbers, and for a last word that leans out of the map."""
        maps = made_maps(source=[*(f"w{i}" for i in range(39)), last], target=("x", "y", "z"))
        assert_nothing_is_cut_off(overview(maps))

    @pytest.mark.slow
    def test_both_kinds(self):
        maps = made_maps(layers=2, heads=2, encoder_self=torch.rand(3, 4, 3, 3).softmax(-1))
        for what, count in (("all", 1 + 6 + 1 + 15), ("cross", 7), ("self", 16)):
            shown = [panel for panel in overview(maps, what=what).axes if panel.images]
            assert len(shown) == count
            close(
                torch.tensor(shown[-1].images[0].get_array()),
                (maps.cross if what == "cross" else maps.encoder_self)[-1, -1],
            )

    @pytest.mark.slow
    def test_long_ones_stay_within_reason(self):
        maps = made_maps(source=[f"word{i}" for i in range(150)], target=[f"wort{i}" for i in range(200)])
        assert max(overview(maps).get_size_inches()) < 40

    @pytest.mark.slow
    def test_made_of_a_model(self, tmp_path):
        save(attention_figure(tiny("post-norm"), letters(), SENTENCE, target="ab c"), tmp_path / "map.png")
        pixels = image.imread(tmp_path / "map.png")
        assert pixels.shape[0] > 300
        assert pixels.shape[1] > 300
        assert len({tuple(pixel) for pixel in pixels[::3, ::3, :3].reshape(-1, 3).tolist()}) > 20
