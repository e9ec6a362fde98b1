import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from mddm import plotting, structure, viewer
from mddm.potential import OscillatingPair, Smoothed, potential_energy
from mddm.sampling import Frame

BOX = 8.0


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).uniform(0, BOX, (3, 200, 3))


class Parts(HTMLParser):
    """The tags of a page with their attributes, and the text inside each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "img":
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"{tag} is closed out of turn"

    def handle_data(self, data):
        if self._open:
            self.text.setdefault(self._open[-1], []).append(data)

    def one(self, tag):
        (attributes,) = [attributes for name, attributes in self.tags if name == tag]
        return attributes


def data_of(shown):
    return json.loads(Parts(shown.html).text["script"][0])


def unpack(text, kind):
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def positions_of(data, size=BOX):
    return unpack(data["places"], "<u2").reshape(-1, data["count"], 3) / 65535 * size


def test_positions_survive_packing(frames):
    data = data_of(viewer.show(frames, BOX, rdf=False))
    assert data["count"] == 200
    assert data["periodic"]
    assert np.abs(positions_of(data) - frames).max() < 1e-4 * BOX


def test_positions_outside_the_box_are_drawn_and_measured_inside(frames):
    inside = data_of(viewer.show(frames, BOX))
    images = BOX * np.random.default_rng(1).integers(-3, 4, frames.shape)
    outside = data_of(viewer.show(frames + images, BOX))
    assert np.abs(positions_of(inside) - positions_of(outside)).max() < 1e-4 * BOX
    assert inside["rdf"]["curves"][0] == pytest.approx(outside["rdf"]["curves"][0], abs=0.05)


def test_a_cloud_in_free_space_keeps_its_shape():
    cloud = torch.randn(100, 3) * 7 + 30
    data = data_of(viewer.show(cloud, None))
    assert not data["periodic"]
    assert data["rdf"] is None
    extent = cloud.max(dim=0).values - cloud.min(dim=0).values
    found = positions_of(data, extent.max().item())[0]
    shift = (cloud.numpy() - found).mean(axis=0)
    assert np.allclose(found + shift, cloud, atol=1e-3)


def test_frames_may_be_one_or_a_list_of_tensors(frames):
    whole = data_of(viewer.show(frames, BOX))
    tensors = [torch.tensor(frame, requires_grad=True) for frame in frames]
    assert data_of(viewer.show(tensors, BOX)) == whole
    heights = data_of(viewer.show(tensors, BOX, color=[tensor[:, 2] for tensor in tensors]))
    assert heights["values"] == data_of(viewer.show(frames, BOX, color=frames[..., 2]))["values"]
    alone = data_of(viewer.show(frames[2], BOX))
    assert len(alone["labels"]) == 1
    assert (positions_of(alone)[0] == positions_of(whole)[2]).all()


def test_each_frame_has_its_rdf_beside_the_reference(frames):
    r, reference = structure.rdf(frames[0], BOX)
    data = data_of(viewer.show(frames, BOX, reference=reference, reference_label="LAMMPS"))
    assert data["rdf"]["r"] == pytest.approx(r, abs=1e-3)
    for frame, curve in zip(frames, data["rdf"]["curves"], strict=True):
        assert curve == pytest.approx(structure.rdf(frame, BOX)[1], abs=1e-4)
    assert data["rdf"]["reference"]["label"] == "LAMMPS"
    assert data["rdf"]["reference"]["curve"] == data["rdf"]["curves"][0]


def test_one_close_pair_does_not_flatten_the_rdf(frames):
    lattice = np.stack(np.meshgrid(*3 * [np.arange(0.5, 8, 2)]), axis=-1).reshape(-1, 3)
    peak = structure.rdf(lattice, BOX)[1].max()
    assert data_of(viewer.show(lattice, BOX))["rdf"]["top"] == pytest.approx(1.1 * peak, rel=1e-3)
    pair = np.vstack([lattice, lattice[:1] + 0.05])
    spike = data_of(viewer.show(pair, BOX))["rdf"]
    assert spike["top"] < 1.2 * peak
    assert max(spike["curves"][0]) > 1.5 * spike["top"]


def test_values_span_the_color_bar(frames):
    values = np.arange(200.0)
    data = data_of(
        viewer.show(frames, BOX, color=values, color_label="q [1]", color_range=(0, 100))
    )
    packed = unpack(data["values"], "u1").reshape(3, 200)
    assert (packed == packed[0]).all(), "one value per particle holds for every frame"
    assert packed[0, [0, 50, 100, 199]].tolist() == [0, 128, 255, 255]
    assert data["bar"] == ["0", "≥ 100", "q [1]"]
    assert len(set(map(tuple, np.reshape(data["colors"], (-1, 3))))) == 16


def test_the_last_frame_sets_the_range_of_colors(frames):
    values = np.stack([np.full(200, 1e9), np.full(200, -1e9), np.linspace(-1, 1, 200)])
    data = data_of(viewer.show(frames, BOX, color=values))
    assert data["bar"][:2] == ["≤ −0.96", "≥ 0.96"]
    even = data_of(viewer.show(frames, BOX, color=np.full(200, 3.0)))
    assert even["bar"][:2] == ["2.5", "3.5"]


def test_without_values_all_particles_have_one_color(frames):
    data = data_of(viewer.show(frames, BOX))
    assert data["values"] is None
    assert data["bar"] is None
    assert len(set(map(tuple, np.reshape(data["colors"], (-1, 3))))) == 1


def test_spheres_are_as_large_as_in_figures(frames, monkeypatch):
    drawn = []
    monkeypatch.setattr(plotting, "particles", lambda *arguments: drawn.append(arguments[-1]))
    for box_length, size in ((BOX, BOX), (None, np.ptp(frames[0], axis=0).max())):
        data = data_of(viewer.show(frames[0], box_length, rdf=False))
        assert 2 * data["radius"] * size == pytest.approx(drawn[-1], rel=1e-3)
    data = data_of(viewer.show(frames[0], BOX, diameter=0.4))
    assert data["radius"] == pytest.approx(0.2 / BOX)


def test_a_still_picture_stands_in_with_words_for_it(frames):
    shown = viewer.show(frames, BOX, color=np.arange(200), color_label="energy [ε]")
    still = Parts(shown.html).one("img")
    assert still["alt"] == (
        "200 particles in a periodic box of edge 8 σ, 3 frames, coloured by energy [ε]"
    )
    kind, packed = still["src"].split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(packed) == shown.picture
    pixels = np.asarray(Image.open(io.BytesIO(shown.picture)).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    assert shown._repr_html_() == shown.html
    assert shown._repr_png_() == shown.picture


def test_words_cannot_break_the_page(frames):
    bad = '</script><script>alert("&")</script>'
    shown = viewer.show(frames, BOX, labels=[bad] * 3, alt=bad, caption=bad, color_label=bad)
    parts = Parts(shown.html)
    assert [tag for tag, _ in parts.tags].count("script") == 2
    assert data_of(shown)["labels"] == [bad] * 3
    assert parts.one("img")["alt"] == bad
    assert "".join(parts.text["figcaption"]) == bad


def test_it_loads_nothing_from_elsewhere(frames):
    shown = viewer.show(frames, BOX).html
    assert not re.search(r"https?:|//\w+\.\w+", shown)


def test_its_page_is_small():
    thousand = np.random.default_rng(0).uniform(0, 10, (26, 1000, 3))
    one, many = (len(viewer.show(some, 10.0).html) for some in (thousand[-1], thousand))
    assert (many - one) / 25 < 10_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.ones((5, 2))}, r"\(n_particles, 3\), got \(5, 2\)"),
        ({"frames": np.ones((0, 3))}, r"got \(0, 3\)"),
        ({"frames": [np.ones((4, 3)), np.ones((5, 3))]}, "must all have one shape"),
        ({"frames": np.full((2, 4, 3), np.nan)}, "frame 0 has nan"),
        ({"box_length": 0.0}, "box_length must be a finite number above 0, got 0.0"),
        ({"box_length": [BOX] * 3}, "box_length must be one number"),
        ({"color": np.ones(4)}, r"shape \(200,\) or \(3, 200\); got \(4,\)"),
        ({"color": np.full(200, np.inf)}, "color must be finite"),
        ({"color": np.ones(200), "color_range": (1, 1)}, "the lower one first"),
        ({"labels": ["one"]}, "each of the 3 frames"),
        ({"labels": "abc"}, "each of the 3 frames"),
        ({"reference": np.ones(7)}, r"must have the shape \(100,\), got \(7,\)"),
        ({"reference": np.ones(100), "rdf": False}, "needs a box_length and rdf=True"),
        ({"reference": np.ones(100), "box_length": None}, "needs a box_length and rdf=True"),
        ({"diameter": -1.0}, "diameter must be a finite number above 0"),
    ],
)
def test_what_cannot_be_shown_is_refused(frames, change, message):
    with pytest.raises(ValueError, match=message):
        viewer.show(**{"frames": frames, "box_length": BOX} | change)


def test_sampling_is_shown_from_its_start_to_its_end_by_energy(frames):
    potential = Smoothed(OscillatingPair(5.0, 1.0))
    sampled = [
        Frame(10 - i, 1.0 - i / 10, torch.from_numpy(frames[i % 3])[None].float(), 2 * i)
        for i in range(11)
    ]
    shown = viewer.show_sampling(sampled, potential, BOX, n_shown=3, caption="A sample.")
    data = data_of(shown)
    assert data["labels"] == ["call 0, noise 1 σ", "call 10, noise 0.5 σ", "call 20, noise 0 σ"]
    assert positions_of(data)[1] == pytest.approx(frames[5 % 3], abs=1e-3)
    energies = potential_energy(torch.from_numpy(frames[10 % 3]), potential, BOX).numpy()
    low, high = np.percentile(energies, [5, 75])
    expected = np.clip((energies - low) / (high - low), 0, 1) * 255
    packed = unpack(data["values"], "u1").reshape(3, 200)[-1]
    assert packed == pytest.approx(expected, abs=1)
    assert "A sample." in shown.html
    for wrong in ({"frames": []}, {"n_shown": 1}):
        with pytest.raises(ValueError, match="needs frames, and at least 2 to show"):
            viewer.show_sampling(
                **{"frames": sampled, "potential": potential, "box_length": BOX} | wrong
            )
