import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from mddm import plotting, presets
from mddm.study import diagrams

STAGES = [np.random.default_rng(seed).uniform(0, 5, (30, 3)) for seed in range(3)]
# Height of each figure [inch], all 5.4 wide, and what it draws.
DRAWN = {
    "pipeline": (6.2, lambda ax: diagrams.pipeline(ax, STAGES, 5.0)),
    "analogy": (5.6, lambda ax: diagrams.analogy(ax, STAGES, 5.0)),
    "pbcconv": (5.4, lambda ax: diagrams.pbcconv(ax, network("mddm"))),
    "transolver": (5.4, lambda ax: diagrams.transolver(ax, network("transolver"))),
}


def network(preset):
    return presets.Settings(preset=preset).new_denoiser()


@pytest.fixture(params=DRAWN)
def drawn(request):
    height, draw = DRAWN[request.param]
    with mpl.rc_context():
        plotting.set_style()
        figure, ax = plt.subplots(figsize=(5.4, height))
        assert draw(ax) is ax
        figure.canvas.draw()
        yield ax
        plt.close(figure)


def words(ax):
    return [text for text in ax.texts if text.get_text()]


def test_letters_can_be_read_on_a_phone(drawn):
    for text in words(drawn):
        assert text.get_fontsize() / 72 / 5.4 * 360 > 9, text.get_text()


def test_no_word_leaves_the_figure_or_touches_another(drawn):
    frame = drawn.figure.bbox
    boxes = {text.get_text(): text.get_window_extent() for text in words(drawn)}
    for word, box in boxes.items():
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1, word
        assert frame.y0 <= box.y0 and box.y1 <= frame.y1, word
    names = list(boxes)
    for i, name in enumerate(names):
        for other in names[:i]:
            assert not boxes[name].overlaps(boxes[other]), (name, other)


def test_words_stay_inside_their_boxes(drawn):
    patches = [patch for patch in drawn.patches if patch.get_facecolor()[3] > 0]
    for text in words(drawn):
        inside = text.get_window_extent()
        center = (inside.x0 + inside.x1) / 2, (inside.y0 + inside.y1) / 2
        for patch in patches:
            around = patch.get_window_extent()
            if around.contains(*center):
                assert around.x0 < inside.x0 and inside.x1 < around.x1, text.get_text()
                assert around.y0 < inside.y0 and inside.y1 < around.y1, text.get_text()


def shown(draw):
    figure, ax = plt.subplots(figsize=(5.4, 5.4))
    draw(ax)
    text = "\n".join(text.get_text() for text in words(ax))
    plt.close(figure)
    return text


def test_numbers_are_the_networks_own():
    small = type(network("mddm"))(
        channels=24, n_layers=2, hidden_channels=10, head_channels=7, n_neighbors=9
    )
    text = shown(lambda ax: diagrams.pbcconv(ax, small))
    assert "9 neighbours" in text
    assert "h: 15, 10, 24" in text and "h: 55, 10, 24" in text
    assert "MLP: 24, 7, 3" in text
    assert "PBCConv 2" in text and "PBCConv 3" not in text
    published = network("transolver")
    text = shown(lambda ax: diagrams.transolver(ax, published))
    assert f"{len(published.blocks)} times" in text
    assert f"{published.blocks[0].attention.n_heads} heads" in text


@pytest.mark.parametrize("draw", [diagrams.pipeline, diagrams.analogy])
def test_three_stages_are_asked_for(draw):
    figure, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"stages must be three configurations.* got 2"):
        draw(ax, STAGES[:2], 5.0)
    plt.close(figure)
