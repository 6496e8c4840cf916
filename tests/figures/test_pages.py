"""Figures as a page shows them: light and dark, wide and narrow."""

import re

import pytest

from seqloom.figures.pages import DARK, in_dark, narrow, themed
from seqloom.figures.style import as_label, look, new_figure, share_legend


@pytest.fixture
def figure():
    figure, panels = new_figure(3)
    for number, panel in enumerate(panels):
        panel.plot([1, 2], [1, 2], label=as_label("_a line"), **look(number))
    panels[0].set_ylabel("what is counted")
    panels[2].set_axis_off()
    share_legend(figure, panels[0])
    return figure


class TestThemed:
    def test_every_colour_has_a_dark_one(self, figure):
        picture = themed(figure)
        style, _, rest = picture.partition("</style>")
        assert "prefers-color-scheme:dark" in style
        assert not re.search(r": #[0-9a-f]{6}", rest)
        used = set(re.findall(r"var\((--c\d+)\)", rest))
        assert used <= set(re.findall(r"(--c\d+):#[0-9a-f]{6}", style))

    @pytest.mark.parametrize(
        ("light", "dark"), [("#ffffff", "#15191e"), ("#000000", "#e6edf3"), ("#0072b2", "#3f9be0")]
    )
    def test_colours(self, light, dark):
        assert in_dark(light) == dark

    def test_lines_stay_apart(self):
        assert len({*DARK.values()}) == len(DARK)


class TestNarrow:
    def test_one_panel_a_row(self, figure):
        copy = narrow(figure)
        assert [panel.get_subplotspec().get_geometry()[:2] for panel in copy.axes] == [(2, 1), (2, 1)]
        assert copy.get_size_inches()[0] < 5
        assert {panel.get_ylabel() for panel in copy.axes} == {"what is counted"}

    def test_the_legend_stays(self, figure):
        (legend,) = narrow(figure).legends
        assert [text.get_text() for text in legend.get_texts()] == [as_label("_a line")]

    def test_the_figure_is_as_it_was(self, figure):
        narrow(figure)
        assert (len(figure.axes), figure.get_size_inches()[0]) == (3, 9)
