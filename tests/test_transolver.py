import math

import pytest
import torch
from torch.nn.functional import gelu

from mddm.condition import RANGES
from mddm.noise import log_schedule
from mddm.transolver import PhysicsAttention, TransolverBlock, TransolverDenoiser

BOX = 10.0


def naive_physics_attention(x, attention):
    """Pool, attend and return one system and one head at a time, as the method is described."""
    heads = attention.n_heads
    width = x.shape[-1] // heads
    moved = torch.zeros_like(x)
    for system in range(len(x)):
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            point = (x[system] @ attention.project_x.weight.T + attention.project_x.bias)[:, own]
            value = (x[system] @ attention.project_fx.weight.T + attention.project_fx.bias)[:, own]
            tau = max(attention.temperature.flatten()[head].item(), 0.01)
            logits = point @ attention.project_slice.weight.T + attention.project_slice.bias
            weights = torch.exp(logits / tau - (logits / tau).amax(1, keepdim=True))
            weights = weights / weights.sum(1, keepdim=True)
            tokens = []
            for column in weights.T:
                mass = column.sum()
                # The published code's guard against empty slices.
                tokens.append((column[:, None] * value).sum(0) / (mass + 1e-5))
            tokens = torch.stack(tokens)
            q, k, v = (tokens @ linear.weight.T
                       for linear in (attention.query, attention.key, attention.value))  # fmt: skip
            scores = torch.exp(q @ k.T / math.sqrt(width))
            tokens = scores / scores.sum(1, keepdim=True) @ v
            moved[system, :, own] = weights @ tokens
    return moved @ attention.project_out.weight.T + attention.project_out.bias


def naive_layer_norm(x, norm):
    centered = x - x.mean(-1, keepdim=True)
    spread = centered.square().mean(-1, keepdim=True).add(norm.eps).sqrt()
    return centered / spread * norm.weight + norm.bias


def naive_mlp(x, mlp):
    first, _, second = mlp
    return gelu(x @ first.weight.T + first.bias) @ second.weight.T + second.bias


def shake(module, seed=5):
    """Move every parameter off its special start, so that none goes unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


def inputs(batch=2, n_particles=40, seed=0):
    torch.manual_seed(seed)
    x_t = torch.rand(batch, n_particles, 3) * BOX
    sigma = log_schedule(10)[torch.randint(1, 11, (batch,))].float()
    low, high = torch.tensor(list(RANGES.values())).T
    return x_t, sigma, low + torch.rand(batch, 3) * (high - low)


def denoiser(**sizes):
    torch.manual_seed(1)
    return TransolverDenoiser(**({"channels": 16, "n_layers": 2, "n_heads": 4} | sizes))


# --- its parts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "n_heads", "n_slices"), [(12, 3, 5), (8, 1, 16), (6, 6, 2)])
def test_physics_attention_is_what_is_described(channels, n_heads, n_slices):
    torch.manual_seed(0)
    attention = shake(PhysicsAttention(channels, n_heads, n_slices).double())
    x = torch.randn(2, 25, channels, dtype=torch.float64)
    torch.testing.assert_close(
        attention(x), naive_physics_attention(x, attention), rtol=1e-9, atol=1e-11
    )


def test_one_slice_spreads_one_mean_over_all_particles():
    torch.manual_seed(0)
    attention = shake(PhysicsAttention(8, 2, 1).double())
    x = torch.randn(1, 10, 8, dtype=torch.float64)
    out = attention(x)
    torch.testing.assert_close(out, out[:, :1].expand_as(out))
    mean = attention.project_fx(x).mean(1).unflatten(-1, (2, 4)) * 10 / (10 + 1e-5)
    expected = attention.project_out(attention.value(mean).flatten(1))
    torch.testing.assert_close(out[:, 0], expected)


def test_channels_must_divide_among_the_heads():
    with pytest.raises(ValueError, match="multiple of n_heads, got 10 and 4"):
        PhysicsAttention(10, 4, 8)
    with pytest.raises(ValueError, match="n_heads"):
        TransolverDenoiser(channels=10, n_heads=4)


@pytest.mark.parametrize("temperature", [0.0, -3.0, 1e-9])
def test_a_slice_temperature_that_collapses_leaves_everything_finite(temperature):
    x_t, sigma, condition = inputs()
    model = denoiser()
    for block in model.blocks:
        block.attention.temperature.data.fill_(temperature)
    eps = model(x_t, sigma, condition, BOX)
    gradients = torch.autograd.grad(eps.square().mean(), list(model.parameters()))
    assert torch.isfinite(eps).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_block_adds_attention_and_then_an_mlp():
    torch.manual_seed(0)
    block = shake(TransolverBlock(12, 3, 5, mlp_ratio=2).double())
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    expected = x + naive_physics_attention(
        naive_layer_norm(x, block.norm_attention), block.attention
    )
    expected = expected + naive_mlp(naive_layer_norm(expected, block.norm_mlp), block.mlp)
    torch.testing.assert_close(block(x), expected, rtol=1e-9, atol=1e-10)


# --- the denoiser ------------------------------------------------------------------------------


def test_the_paper_preset_has_128_867_parameters():
    model = TransolverDenoiser()
    assert sum(parameter.numel() for parameter in model.parameters()) == 128_867
    assert all(parameter.requires_grad for parameter in model.parameters())
    temperatures = [block.attention.temperature for block in model.blocks]
    assert len(temperatures) == 4
    assert all(tau.numel() == 8 and (tau == 0.5).all() for tau in temperatures)


@pytest.mark.parametrize("box_length", [BOX, None])
def test_the_whole_network_is_what_is_described(box_length):
    x_t, sigma, condition = (value.double() for value in inputs())
    model = shake(denoiser().double())
    for system in range(2):
        level = sigma[system].item()
        fraction = math.log(level / 0.005) / math.log(5.0 / 0.005)
        common = [
            2 * (value.item() - low) / (high - low) - 1
            for value, (low, high) in zip(condition[system], RANGES.values(), strict=True)
        ]
        common = torch.tensor([*common, fraction], dtype=torch.float64).expand(40, 4)
        if box_length is None:
            scaled = x_t[system] / math.sqrt(1 + level**2)
        else:
            scaled = (x_t[system] - box_length / 2) / (box_length / 2)
        x = naive_mlp(torch.cat([scaled, common], dim=1), model.preprocess) + model.placeholder
        for block in model.blocks:
            attended = naive_physics_attention(
                naive_layer_norm(x, block.norm_attention)[None], block.attention
            )[0]
            x = x + attended
            x = x + naive_mlp(naive_layer_norm(x, block.norm_mlp), block.mlp)
        expected = naive_layer_norm(x, model.norm) @ model.head.weight.T + model.head.bias
        eps = model(x_t, sigma, condition, box_length)[system]
        torch.testing.assert_close(eps, expected)


def test_every_parameter_is_trained():
    x_t, sigma, condition = inputs()
    model = TransolverDenoiser()
    model(x_t, sigma, condition, BOX).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("box_length", [BOX, None])
def test_relabelling_particles_relabels_the_output(box_length):
    x_t, sigma, condition = inputs()
    model, order = shake(denoiser()), torch.randperm(40)
    eps = model(x_t, sigma, condition, box_length)
    permuted = model(x_t[:, order], sigma, condition, box_length)
    torch.testing.assert_close(permuted, eps[:, order], rtol=1e-4, atol=1e-5)
    assert eps.std(dim=1).min() > 1e-3


def test_systems_of_a_batch_do_not_see_each_other():
    x_t, sigma, condition = inputs(batch=3)
    model = shake(denoiser())
    together = model(x_t, sigma, condition, BOX)
    for system in range(3):
        one = slice(system, system + 1)
        alone = model(x_t[one], sigma[one], condition[one], BOX)
        torch.testing.assert_close(alone, together[one], rtol=1e-4, atol=1e-5)


def test_it_is_not_invariant_under_translation():
    # What sets it apart from PBCConv: absolute positions, and a boundary that it sees.
    x_t, sigma, condition = inputs()
    model = shake(denoiser())
    eps = model(x_t, sigma, condition, BOX)
    moved = model((x_t + 2.0) % BOX, sigma, condition, BOX)
    assert (moved - eps).square().mean() > 0.01 * eps.var()


def test_condition_and_noise_level_are_heard():
    x_t, sigma, condition = inputs()
    model = shake(denoiser())
    eps = model(x_t, sigma, condition, BOX)
    for column in range(3):
        other = condition.clone()
        other[:, column] *= 1.1
        assert not torch.allclose(model(x_t, sigma, other, BOX), eps)
    assert not torch.allclose(model(x_t, 2 * sigma, condition, BOX), eps)


def test_a_compiled_network_answers_for_any_box():
    torch.compiler.reset()
    denoiser = TransolverDenoiser(channels=8, n_layers=1, n_heads=1, n_slices=2).eval()
    program = torch.compile(denoiser, backend="aot_eager")
    sigma, condition = torch.tensor([0.1, 0.2]), torch.rand(2, 3)
    for index, box_length in enumerate((10.0, 10.5, 10.2)):
        x_t = box_length * torch.rand(2, 20, 3)
        with torch.compiler.set_stance("fail_on_recompile" if index > 1 else "default"):
            assert torch.equal(*(f(x_t, sigma, condition, box_length) for f in (program, denoiser)))


def test_any_image_of_a_particle_will_do():
    denoiser = TransolverDenoiser(channels=8, n_layers=1, n_heads=1, n_slices=2).eval()
    x_t, told = 8 * torch.rand(2, 20, 3), (torch.tensor([0.1, 0.2]), torch.rand(2, 3), 8.0)
    images = x_t + 8 * torch.randint(-2, 3, x_t.shape)
    torch.testing.assert_close(denoiser(images, *told), denoiser(x_t, *told), atol=1e-4, rtol=0)
    # ... in any precision, too.
    assert torch.equal(denoiser(x_t.double().numpy(), *told), denoiser(x_t, *told))
