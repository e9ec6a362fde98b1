import copy
from itertools import product

import pytest
import torch
from torch_geometric.nn import EdgeConv

from mddm import pbcconv
from mddm.condition import RANGES, Conditioning
from mddm.geometry import minimum_image, nearest_neighbors
from mddm.noise import log_schedule
from mddm.pbcconv import PBCConv, PBCConvDenoiser, RadialDenoiser

BOX = 10.0
METHODS = ["dense", "message_passing"]
HIDDEN = [None, 6]  # h linear, and with a hidden layer
BOXES = [BOX, None]
PAPER = {
    **{"n_layers": 4, "channels": 128, "hidden_channels": 64},
    **{"first": "globals", "head_channels": 128},
}


def random_graph(batch=2, n_particles=30, n_neighbors=6, channels=5, box_length=BOX, n_globals=4):
    torch.manual_seed(0)
    positions = torch.rand(batch, n_particles, 3) * BOX
    neighbors, displacement = nearest_neighbors(positions, n_neighbors, box_length)
    features = torch.randn(batch, n_particles, channels)
    return features, neighbors, displacement, torch.randn(batch, n_globals)


def inputs(batch=2, n_particles=40, seed=0):
    torch.manual_seed(seed)
    x_t = torch.rand(batch, n_particles, 3) * BOX
    sigma = log_schedule(10)[torch.randint(1, 11, (batch,))].float()
    low, high = torch.tensor(list(RANGES.values())).T
    return x_t, sigma, low + torch.rand(batch, 3) * (high - low)


def denoiser(method="dense", **sizes):
    torch.manual_seed(1)
    small = {"channels": 16, "hidden_channels": 8, "head_channels": 8, "n_neighbors": 8}
    sizes = PAPER | small | sizes
    return PBCConvDenoiser(method=method, **sizes)


def both_methods(**sizes):
    dense = denoiser("dense", **sizes)
    reference = copy.deepcopy(dense)
    for layer in reference.layers:
        layer.method = "message_passing"
    return dense, reference


# --- the convolution ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("box_length", BOXES)
def test_the_layer_is_equation_one(method, hidden, box_length):
    features, neighbors, displacement, globals_ = random_graph(box_length=box_length)
    layer = PBCConv(5, 7, 4, hidden, method)
    out = layer(features, neighbors, displacement, globals_)
    assert out.shape == (2, 30, 7)
    weight, bias = layer.linear.weight.double(), layer.linear.bias.double()

    def h(edge):
        inner = weight @ edge.double() + bias
        if hidden is None:
            return inner
        return layer.mix.weight.double() @ inner.clamp(min=0) + layer.mix.bias.double()

    for system in range(2):
        for i in range(30):
            messages = []
            for rank, j in enumerate(neighbors[system, i].tolist()):
                f_i, f_j = features[system, i], features[system, j]
                edge = torch.cat([displacement[system, i, rank], f_i, f_j - f_i, globals_[system]])
                messages.append(h(edge))
            expected = torch.stack(messages).max(dim=0).values
            torch.testing.assert_close(out[system, i].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_without_displacement_and_globals_it_is_edgeconv(method, hidden):
    features, neighbors, displacement, globals_ = random_graph()
    layer = PBCConv(5, 7, 4, hidden, method)
    first = torch.nn.Linear(10, hidden or 7)
    rest = [torch.nn.ReLU(), torch.nn.Linear(hidden, 7)] if hidden else []
    oracle = EdgeConv(torch.nn.Sequential(first, *rest), aggr="max")  # draws the weights anew
    with torch.no_grad():
        layer.linear.weight[:, 3:13] = first.weight
        layer.linear.bias.copy_(first.bias)
        if hidden:
            layer.mix.load_state_dict(rest[1].state_dict())
    out = layer(features, neighbors, torch.zeros_like(displacement), torch.zeros_like(globals_))
    for system in range(2):
        target = torch.arange(30).repeat_interleave(6)
        edge_index = torch.stack([neighbors[system].flatten(), target])
        expected = oracle(features[system], edge_index)
        torch.testing.assert_close(out[system], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("box_length", BOXES)
@pytest.mark.parametrize("n_neighbors", [1, 6, 29])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_both_methods_agree_in_output_and_in_every_gradient(box_length, n_neighbors, hidden):
    graph = random_graph(batch=3, n_neighbors=n_neighbors, box_length=box_length)
    features, neighbors, displacement, globals_ = graph
    layer = PBCConv(5, 7, 4, hidden)
    torch.manual_seed(3)
    upstream = torch.randn(3, 30, 7)
    results = {}
    for method in METHODS:
        layer.method = method
        leaves = [value.clone().requires_grad_() for value in (features, displacement, globals_)]
        out = layer(leaves[0], neighbors, leaves[1], leaves[2])
        gradients = torch.autograd.grad((out * upstream).sum(), [*leaves, *layer.parameters()])
        results[method] = [out, *gradients]
    for dense, reference in zip(*results.values(), strict=True):
        assert reference.abs().max() > 0
        torch.testing.assert_close(dense, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_same_comes_out_when_nobody_wants_gradients(method, hidden):
    features, neighbors, displacement, globals_ = random_graph(batch=3)
    layer = PBCConv(5, 7, 4, hidden, method)
    out = layer(features, neighbors, displacement, globals_)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            quietly = layer(features, neighbors, displacement, globals_)
        assert not quietly.requires_grad
        torch.testing.assert_close(quietly, out, rtol=1e-5, atol=1e-5)


def test_edges_may_carry_anything():
    features, neighbors, _, globals_ = random_graph()
    edges = torch.randn(2, 30, 6, 9)
    layer = PBCConv(5, 7, 4, edge_channels=9)
    out = layer(features, neighbors, edges, globals_)
    layer.method = "message_passing"
    torch.testing.assert_close(out, layer(features, neighbors, edges, globals_))
    linear, (i, rank) = layer.linear, (3, 4)
    f_i, f_j = features[1, i], features[1, neighbors[1, i, rank]]
    message = linear(torch.cat([edges[1, i, rank], f_i, f_j - f_i, globals_[1]]))
    assert (message <= out[1, i] + 1e-5).all()


def test_only_the_maximum_over_the_neighbors_counts():
    features, neighbors, displacement, globals_ = random_graph()
    for method in METHODS:
        layer = PBCConv(5, 7, 4, 6, method)
        out = layer(features, neighbors, displacement, globals_)
        order = torch.randperm(6)
        shuffled = layer(features, neighbors[..., order], displacement[..., order, :], globals_)
        torch.testing.assert_close(shuffled, out)
        once = layer(features, neighbors[..., :5], displacement[..., :5, :], globals_)
        assert (once <= out + 1e-5).all() and (once < out - 1e-5).any()


def test_half_precision_changes_products_a_little_and_nothing_else():
    features, neighbors, displacement, globals_ = random_graph(n_neighbors=20)
    layer, outputs = PBCConv(5, 7, 4, 6), []
    for lowered in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
            out = layer(features, neighbors, displacement, globals_)
        out.square().sum().backward()
        outputs.append([out, layer.linear.weight.grad.clone(), layer.mix.weight.grad.clone()])
    for exact, low in zip(*outputs, strict=True):
        assert low.dtype == torch.float32
        assert 0 < (low - exact).norm() < 0.1 * exact.norm()


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="'dense' or 'message_passing', got 'sparse'"):
        PBCConv(5, 7, 4, method="sparse")
    with pytest.raises(ValueError, match="got 'sparse'"):
        PBCConvDenoiser(method="sparse")
    with pytest.raises(ValueError, match="first must be one of globals, learned, got 'nothing'"):
        PBCConvDenoiser(first="nothing")


# --- the denoiser ------------------------------------------------------------------------------


def test_the_paper_preset_has_101_891_parameters():
    model = PBCConvDenoiser()
    assert sum(parameter.numel() for parameter in model.parameters()) == 101_891
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_its_rivals_have_the_same_number_of_parameters():
    found = pbcconv.sizes_with(101_891, [2**power for power in range(4, 9)])
    linear = dict(
        n_layers=3, channels=128, hidden_channels=None, first="learned", head_channels=None
    )
    assert PAPER in found and linear in found
    for sizes in found:
        assert (
            sum(parameter.numel() for parameter in PBCConvDenoiser(**sizes).parameters()) == 101_891
        )


def test_no_choice_of_sizes_is_missed():
    widths, found = [2, 3, 5], {}
    for n_layers, channels, hidden, first, head in product(
        (1, 2), widths, (None, *widths), pbcconv.FIRST, (None, *widths)
    ):
        sizes = {"n_layers": n_layers, "channels": channels, "hidden_channels": hidden}
        sizes |= {"first": first, "head_channels": head}
        count = sum(value.numel() for value in PBCConvDenoiser(**sizes).parameters())
        found.setdefault(count, []).append(sizes)
    for count, expected in found.items():
        listed = pbcconv.sizes_with(count, widths, (1, 2))
        assert sorted(map(str, listed)) == sorted(map(str, expected))
    assert pbcconv.sizes_with(1, widths) == []


def test_the_paper_preset_has_an_mlp_in_each_of_four_layers():
    shapes = [
        tuple(value.shape)
        for name, value in PBCConvDenoiser(**PAPER).named_parameters()
        if value.ndim > 1
    ]
    first, later = [(64, 15), (128, 64)], [(64, 263), (128, 64)]
    assert shapes == [*first, *later * 3, (128, 128), (3, 128)]


@pytest.mark.parametrize("box_length", BOXES)
@pytest.mark.parametrize("conditional", [True, False])
def test_the_paper_preset_is_the_same_by_both_methods(box_length, conditional):
    # In double precision, where rounding does not decide which of two messages is larger.
    x_t, sigma, condition = (value.double() for value in inputs(batch=3, n_particles=50))
    condition, ranges = (condition, RANGES) if conditional else (None, {})
    sizes = {"channels": 128, "hidden_channels": 64, "head_channels": 128, "n_neighbors": 20}
    dense, reference = both_methods(conditioning=Conditioning(ranges), **sizes)
    outputs, gradients = [], []
    for model in (dense.double(), reference.double()):
        positions = x_t.clone().requires_grad_()
        eps = model(positions, sigma, condition, box_length)
        loss = (eps - torch.linspace(-1, 1, 3).double()).square().mean()
        outputs.append(eps)
        gradients.append(torch.autograd.grad(loss, [positions, *model.parameters()]))
    assert outputs[0].shape == (3, 50, 3)
    torch.testing.assert_close(outputs[0], outputs[1])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)


def test_the_denoiser_is_its_layers_one_after_the_other():
    x_t, sigma, condition = (value.double() for value in inputs())
    model = denoiser(n_layers=2).double()
    neighbors, displacement = nearest_neighbors(x_t, 8, BOX)
    low, high = torch.tensor(list(RANGES.values()), dtype=torch.float64).T
    fraction = torch.log(sigma / 0.005) / torch.log(torch.tensor(5.0 / 0.005).double())
    globals_ = torch.cat([2 * (condition - low) / (high - low) - 1, fraction[:, None]], dim=1)
    features = globals_[:, None].expand(2, 40, 4)
    for layer in model.layers:
        edges = [
            displacement,
            features[:, :, None].expand(-1, -1, 8, -1),
            torch.stack([f[n] for f, n in zip(features, neighbors, strict=True)])
            - features[:, :, None],
            globals_[:, None, None].expand(-1, 40, 8, -1),
        ]
        inner = layer.linear(torch.cat(edges, dim=-1)).clamp(min=0)
        features = layer.mix(inner).amax(dim=2).clamp(min=0)
    torch.testing.assert_close(model(x_t, sigma, condition, BOX), model.head(features))


def test_every_parameter_is_trained():
    x_t, sigma, condition = inputs()
    model = denoiser()
    model(x_t, sigma, condition, BOX).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("method", METHODS)
def test_translation_through_the_boundary_changes_nothing(method):
    x_t, sigma, condition = inputs()
    x_t = x_t.double()
    model = denoiser(method).double()
    sigma, condition = sigma.double(), condition.double()
    eps = model(x_t, sigma, condition, BOX)
    shift = torch.tensor([3.7, -12.2, 9.99], dtype=torch.float64)
    for moved in (x_t + shift, (x_t + shift) % BOX):
        torch.testing.assert_close(model(moved, sigma, condition, BOX), eps)
    in_free_space = model(x_t, sigma, condition, None)
    torch.testing.assert_close(model(x_t + shift, sigma, condition, None), in_free_space)


@pytest.mark.parametrize("box_length", BOXES)
@pytest.mark.parametrize("method", METHODS)
def test_relabelling_particles_relabels_the_output(method, box_length):
    x_t, sigma, condition = inputs()
    model, order = denoiser(method), torch.randperm(40)
    eps = model(x_t, sigma, condition, box_length)
    permuted = model(x_t[:, order], sigma, condition, box_length)
    torch.testing.assert_close(permuted, eps[:, order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_systems_of_a_batch_do_not_see_each_other(method):
    x_t, sigma, condition = inputs(batch=3)
    model = denoiser(method)
    together = model(x_t, sigma, condition, BOX)
    for system in range(3):
        one = slice(system, system + 1)
        alone = model(x_t[one], sigma[one], condition[one], BOX)
        torch.testing.assert_close(alone, together[one], rtol=1e-5, atol=1e-6)


def test_the_boundary_is_seen_only_if_there_is_one():
    x_t, sigma, condition = inputs()
    model = denoiser()
    assert not torch.allclose(model(x_t, sigma, condition, None), model(x_t, sigma, condition, BOX))
    # Far from the boundary a box makes no difference.
    cluster = 4 + x_t / 10
    torch.testing.assert_close(
        model(cluster, sigma, condition, None), model(cluster, sigma, condition, BOX)
    )


def test_condition_and_noise_level_are_heard():
    x_t, sigma, condition = inputs()
    model = denoiser()
    eps = model(x_t, sigma, condition, BOX)
    for column in range(3):
        other = condition.clone()
        other[:, column] *= 1.1
        assert not torch.allclose(model(x_t, sigma, other, BOX), eps)
    assert not torch.allclose(model(x_t, 2 * sigma, condition, BOX), eps)


def test_a_local_change_travels_one_edge_a_layer():
    # Particles on a line, two neighbours each: four layers see four particles a side.
    positions = torch.zeros(1, 40, 3)
    positions[0, :, 0] = torch.arange(40) * 0.25 + 0.02 * torch.sin(torch.arange(40.0))
    model, sigma = denoiser(n_neighbors=2, conditioning=Conditioning({})), torch.tensor([0.1])
    eps = model(positions, sigma, None, BOX)
    moved = positions.clone()
    moved[0, 20, 1] += 0.05
    changed = (model(moved, sigma, None, BOX) - eps).abs().amax(-1)[0] > 1e-7
    assert changed[20] and not changed[:16].any() and not changed[25:].any()
    assert minimum_image(positions[0, 0] - positions[0, 39], BOX).norm() < 0.3


def test_too_many_neighbors_are_refused_in_words():
    x_t, sigma, condition = inputs(n_particles=8)
    with pytest.raises(ValueError, match=r"below the number of particles \(8\), got 8"):
        denoiser()(x_t, sigma, condition, BOX)


# --- the denoiser on distances and directions --------------------------------------------------


def radial_denoiser(**sizes):
    torch.manual_seed(1)
    return RadialDenoiser(**({"channels": 16, "n_layers": 2, "n_neighbors": 8} | sizes))


def test_radial_edges_are_gaussians_of_the_distance_and_the_direction():
    x_t, sigma, condition = inputs()
    model, seen = radial_denoiser(n_radial=5, r_max=2.0), []
    model.convolutions[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    model(x_t, sigma, condition, BOX)
    _, neighbors, edges, _ = seen[0]
    same_neighbors, displacement = nearest_neighbors(x_t, 8, BOX)
    assert torch.equal(neighbors, same_neighbors)
    distance = displacement.norm(dim=-1, keepdim=True)
    centers = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0])
    expected = [torch.exp(-(((distance - centers) / 0.5) ** 2)), displacement / distance]
    torch.testing.assert_close(edges, torch.cat(expected, dim=-1))


@pytest.mark.parametrize("box_length", BOXES)
def test_the_radial_denoiser_sees_no_origin_no_boundary_and_no_labels(box_length):
    x_t, sigma, condition = (value.double() for value in inputs())
    model = radial_denoiser().double()
    eps = model(x_t, sigma, condition, box_length)
    assert eps.shape == x_t.shape
    shift = torch.tensor([3.7, -12.2, 9.99], dtype=torch.float64)
    torch.testing.assert_close(model(x_t + shift, sigma, condition, box_length), eps)
    if box_length is not None:
        torch.testing.assert_close(model((x_t + shift) % BOX, sigma, condition, BOX), eps)
    order = torch.randperm(40)
    permuted = model(x_t[:, order], sigma, condition, box_length)
    torch.testing.assert_close(permuted, eps[:, order])


def test_the_radial_denoiser_hears_condition_and_noise_level():
    x_t, sigma, condition = inputs()
    model = radial_denoiser()
    eps = model(x_t, sigma, condition, BOX)
    for column in range(3):
        other = condition.clone()
        other[:, column] *= 1.1
        assert not torch.allclose(model(x_t, sigma, other, BOX), eps)
    assert not torch.allclose(model(x_t, 2 * sigma, condition, BOX), eps)


def test_the_radial_denoiser_trains_every_parameter_even_among_coincident_particles():
    x_t, sigma, condition = inputs()
    x_t[:, 1] = x_t[:, 0]
    x_t.requires_grad_()
    model = radial_denoiser()
    model(x_t, sigma, condition, BOX).square().mean().backward()
    assert torch.isfinite(x_t.grad).all()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0, name


def test_the_radial_preset_is_a_small_file():
    count = sum(parameter.numel() for parameter in RadialDenoiser().parameters())
    assert 4 * count < 1e6 and count < 10 * 101_891


def test_without_modulation_condition_and_level_are_still_heard():
    x_t, sigma, condition = inputs()
    model = radial_denoiser(modulated=False)
    assert model.modulation is None
    eps = model(x_t, sigma, condition, BOX)
    assert not torch.allclose(model(x_t, 2 * sigma, condition, BOX), eps)
    assert not torch.allclose(model(x_t, sigma, 1.1 * condition, BOX), eps)


def test_modulation_scales_and_shifts_every_layer():
    x_t, sigma, condition = inputs()
    model = radial_denoiser(n_layers=3)
    eps = model(x_t, sigma, condition, BOX)
    silent = copy.deepcopy(model)
    torch.nn.init.zeros_(silent.modulation.change.weight)
    plain = radial_denoiser(n_layers=3, modulated=False)
    weights = {k: v for k, v in silent.state_dict().items() if not k.startswith("modulation")}
    plain.load_state_dict(weights)
    torch.testing.assert_close(
        silent(x_t, sigma, condition, BOX), plain(x_t, sigma, condition, BOX)
    )
    assert not torch.allclose(silent(x_t, sigma, condition, BOX), eps)
    # A scale of -1 with no shift leaves nothing of the last layer's convolution.
    with torch.no_grad():
        silent.modulation.change.bias.unflatten(0, (3, 2, 16))[2, 0] = -1.0
    last = silent.convolutions[2].linear.weight
    without = silent(x_t, sigma, condition, BOX)
    with torch.no_grad():
        last.mul_(2)
    torch.testing.assert_close(silent(x_t, sigma, condition, BOX), without)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("build", [PBCConvDenoiser, RadialDenoiser])
def test_a_gpu_computes_the_same_output_and_gradients(build):
    arguments = (*inputs(batch=3, n_particles=300), BOX)
    torch.manual_seed(1)
    model, results = build(channels=32).double(), []
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        eps = model(*(value.to(device, torch.float64) for value in arguments[:3]), BOX)
        eps.square().mean().backward()
        results.append([eps, *(parameter.grad for parameter in model.parameters())])
        results[-1] = [value.detach().cpu().clone() for value in results[-1]]
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)
