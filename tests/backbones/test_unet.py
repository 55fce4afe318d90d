"""The U-Net: its initialisation, odd sizes, time and conditions, options, and training."""

import math

import pytest
import torch
from slower import some

from diffsweep.backbones import UNet
from diffsweep.backbones.unet_blocks import ResidualStage
from diffsweep.datasets import load_digits
from diffsweep.diffusion import Condition, Eps, NetworkDenoiser, Noise, Simple, Stream
from diffsweep.layers import Downsample, ResidualBlock, Upsample
from diffsweep.schedules import Cosine

ADM = {
    "block": "biggan",
    "time_embedding": "scale_shift",
    "attention_factors": [2],
    "head_channels": 8,
    "num_classes": 10,
}
VARIANTS = {  # every value of every option occurs in one of these networks
    "plain": {},
    "ddpm": {"attention_factors": [1, 2], "num_heads": 2, "norm_eps": 1e-6, "norm_groups": 2},
    "adm": ADM,
    "convnext": {"block": "convnext", "middle_attention": True},
    "convnext_scale_shift": {"block": "convnext", "time_embedding": "scale_shift", "num_classes": 10},
    "linear_attention": {"attention": "linear", "attention_factors": [1, 2], "num_heads": 2},
    "ncsnpp": {**ADM, "residual_scale": 0.5**0.5},
    "efficient": {"resample_order": "before", "skip_scale": 0.5**0.5, "attention_factors": [4]},
    "efficient_uneven": {"resample_order": "before", "skip_scale": 0.5**0.5, "num_res_blocks": [1, 3]},
    "efficient_adm": {**ADM, "resample_order": "before"},
    "sd": {"context_dim": 6, "transformer_depth": 2, "attention_factors": [1, 2], "num_heads": 2},
    "sd_linear": {"context_dim": 6, "attention": "linear", "attention_factors": [2], "num_classes": 10},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


def build(variant, in_channels=2, out_channels=3, channels=8, **more):
    settings = {"num_res_blocks": 1, "attention_resolutions": [], **VARIANTS[variant], **more}
    return UNet(in_channels, out_channels, 8, channels=channels, **settings)


def condition(**more):
    """Return classes and tokens of three samples, of which the second has no condition."""
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0]]).bool()
    parts = {"vector": torch.tensor([3, 0, 9]), "tokens": torch.randn(3, 4, 6), "token_mask": mask}
    return Condition(**{**parts, "is_null": torch.tensor([False, True, False]), **more})


def outputs_of(modules):
    """Return a list to which the output of each module is appended when it is called."""
    inputs_of_mlp = []
    for module in modules:
        module.register_forward_hook(lambda module, arguments, output: inputs_of_mlp.append(output))
    return inputs_of_mlp


def inputs(height=8, width=8):
    return torch.randn(3, 2, height, width), torch.tensor([0.0, 40.0, 900.0]), condition()


def without_zeros(network):
    """Return the network with random weights in place of its zeros."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"attention_resolutions": [5]}, r"backbone.attention_resolutions has \[5\].* sizes \[8, 4\]"),
        (
            {"image_size": 4, "attention_resolutions": [], "channel_mult": [1, 2, 2, 2]},
            "down to 1 pixel after 3; use fewer",
        ),
        ({"channels": 8, "num_heads": 3}, "channels cannot be split into 3"),
        ({"channels": 9, "num_heads": 1}, r"even.*, not 9"),
        ({"attention_factors": [2, 4]}, r"backbone.attention_factors has \[4\], .* the factors \[1, 2\]"),
        ({"resample_order": "before", "attention_resolutions": [8]}, r"has \[8\].* sizes \[4, 2\]"),
        (
            {"image_size": 4, "channel_mult": [1, 2, 2], "resample_order": "before"},
            "down to 1 pixel after 2; use fewer",
        ),
        ({"num_res_blocks": [1, 2, 3]}, "num_res_blocks has 3 numbers, and backbone.channel_mult 2 levels; give one"),
        ({"num_res_blocks": [1, 0]}, "backbone.num_res_blocks must be at least 1, not 0"),
        ({"channels": 24, "head_channels": 32}, "backbone.head_channels=32 does not divide a level's 48 channels"),
        ({"channel_mult": [1, 0]}, "backbone.channel_mult must be at least 1, not 0"),
        ({"num_classes": 0}, "backbone.num_classes must be at least 1, not 0"),
        ({"image_channels": -1}, "backbone.image_channels must be at least 0, not -1"),
        ({"block": "resnet"}, "backbone.block is one of ddpm, biggan, convnext, not resnet"),
        ({"time_embedding": "film"}, "backbone.time_embedding is one of additive, scale_shift, not film"),
        ({"attention": "flash"}, "backbone.attention is one of full, linear, not flash"),
        ({"resample_order": "first"}, "backbone.resample_order is one of after, before, not first"),
        (
            {"context_dim": 4, "attention_resolutions": [], "middle_attention": False},
            "backbone.context_dim needs attention",
        ),
    ],
)
def test_impossible_options_are_refused_with_the_reason(bad, match):
    with pytest.raises(ValueError, match=match):
        UNet(**{"in_channels": 1, "out_channels": 1, "image_size": 8, **bad})


@pytest.mark.parametrize("size", range(1, 10))
def test_it_works_for_small_and_odd_sizes(size):
    """The network has all levels that the size allows, with attention in each; the output has the size of the input."""
    sizes = [size]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    network = without_zeros(UNet(2, 3, size, channels=8, channel_mult=[1] * len(sizes), attention_resolutions=sizes))
    out = network(torch.randn(2, 2, size, size), torch.zeros(2))
    assert out.shape == (2, 3, size, size)
    assert torch.isfinite(out).all()


def test_each_level_has_its_own_number_of_blocks_and_one_more_on_the_way_up():
    settings = {"channel_mult": [1, 2, 4], "attention_resolutions": [], "resample_order": "before"}
    network = UNet(1, 1, 32, channels=8, num_res_blocks=[1, 2, 5], **settings)
    parts = (network.down, network.up)
    widths = [[stage.width for stage in part if isinstance(stage, ResidualStage)] for part in parts]
    assert widths == [[8, *[16] * 2, *[32] * 5], [*[32] * 6, *[16] * 3, *[8] * 2]]
    same = UNet(1, 1, 32, channels=8, num_res_blocks=[2, 2, 2], **settings)
    same.load_state_dict(UNet(1, 1, 32, channels=8, num_res_blocks=2, **settings).state_dict())


def test_blocks_are_the_identity_at_initialisation():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(ResidualBlock(8, 8, 16, 0.0)(x, torch.randn(2, 16)), x)


@pytest.mark.parametrize("channels", [8, 16, 32, 64, 128])
def test_time_reaches_every_block(channels):
    """A shift of whole channels before a norm would be lost if each group of the norm were one channel."""
    block = without_zeros(ResidualBlock(channels, channels, 16, 0.0))
    x = torch.randn(1, channels, 8, 8)
    early, late = block(x, torch.randn(1, 16)), block(x, torch.randn(1, 16))
    assert (early - late).abs().mean() > 1e-2 * early.abs().mean()


@pytest.mark.parametrize("channels", [8, 16, 32])
def test_time_changes_the_output(channels):
    network = without_zeros(UNet(1, 1, 8, channels=channels))
    x = torch.randn(1, 1, 8, 8)
    early, late = network(x, torch.tensor([0.0])), network(x, torch.tensor([900.0]))
    assert (early - late).abs().mean() > 1e-3 * early.abs().mean()


def test_a_block_is_the_written_out_formula():
    """The block is skip(x) + conv(silu(norm(conv(silu(norm(x))) + W emb)))."""
    functional = torch.nn.functional
    block, x, emb = (
        without_zeros(ResidualBlock(48, 96, 16, 0.0)).double(),
        torch.randn(2, 48, 5, 5).double(),
        torch.randn(2, 16).double(),
    )

    def norm(h, layer):
        grouped = h.reshape(len(h), layer.num_groups, -1)
        variance, mean = torch.var_mean(grouped, 2, unbiased=False, keepdim=True)
        h = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(h.shape)
        return h * layer.weight[:, None, None] + layer.bias[:, None, None]

    def silu(h):
        return h / (1 + torch.exp(-h))

    h = functional.conv2d(silu(norm(x, block.norm_in)), block.conv_in.weight, block.conv_in.bias, padding=1)
    h = h + (emb @ block.embed.weight.T + block.embed.bias)[:, :, None, None]
    h = functional.conv2d(silu(norm(h, block.norm_out)), block.conv_out.weight, block.conv_out.bias, padding=1)
    expected = functional.conv2d(x, block.skip.weight, block.skip.bias) + h
    torch.testing.assert_close(block(x, emb), expected)


def test_the_way_up_reads_every_stage_of_the_way_down():
    """The last channels of each stage's input are the output of a layer of the way down, in reverse order."""
    network, left, given = without_zeros(UNet(1, 1, 8, channels=8, num_res_blocks=2)), [], []
    for module in (network.conv_in, *network.down):
        module.register_forward_hook(lambda module, arguments, output: left.append(output))
    for module in network.up:
        if not isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    network(torch.randn(2, 1, 8, 8), torch.tensor([5.0, 500.0]))
    assert len(left) == len(given) == 6
    for skip, h in zip(reversed(left), given, strict=True):
        assert torch.equal(h[:, -skip.shape[1] :], skip)


def test_samples_of_a_batch_are_independent():
    network = without_zeros(UNet(1, 1, 8, channels=16)).double().eval()
    x, c_noise = torch.randn(4, 1, 8, 8).double(), torch.tensor([0.0, 10.0, 500.0, 999.0]).double()
    whole = network(x, c_noise)
    for row in range(4):
        torch.testing.assert_close(
            network(x[row : row + 1], c_noise[row : row + 1]), whole[row : row + 1], rtol=0, atol=1e-10
        )


def test_attention_reaches_distant_pixels_and_convolutions_alone_do_not():
    """At 32 pixels, with one level and one block, the output in a corner depends on nearby pixels alone."""
    x = torch.zeros(1, 1, 32, 32).double().requires_grad_()
    for resolutions, reaches in (([], False), ([32], True)):
        network = without_zeros(
            UNet(1, 1, 32, channels=64, channel_mult=[1], num_res_blocks=1, attention_resolutions=resolutions)
        )
        network = network.double()
        for module in network.modules():
            if isinstance(module, torch.nn.GroupNorm):  # norms depend on the whole image: leave them out
                module.forward = lambda h: h
        (gradient,) = torch.autograd.grad(network(x + 0.1, torch.tensor([5.0]).double())[0, 0, 0, 0], x)
        assert bool(gradient[0, 0, -1, -1] != 0) == reaches


@pytest.mark.parametrize("variant", some(VARIANTS, fast=3))
def test_it_overfits_sixteen_digits(variant):
    """The loss at fixed (t, eps) falls to less than a twentieth of its initial value within 300 steps."""
    x_0 = load_digits("train")["x"][:16]
    network = build(variant, 1, 1, channels=32)
    cond = Condition(vector=load_digits("train")["label"][:16], tokens=torch.randn(16, 2, 6))
    denoiser, objective = NetworkDenoiser(network, Cosine(1000), Eps()), Simple("l2")
    t, eps = torch.linspace(0.1, 1, 16), Noise(0, torch.arange(16)).like(x_0, Stream.EPS)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    first = None
    for _ in range(300):
        loss = objective(denoiser, x_0, cond, t, eps).mean()
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < first / 20:
            break
    assert first == pytest.approx(float(eps.square().mean()), rel=1e-5)  # the initial output is 0
    assert loss < first / 20


def test_the_default_network_has_the_same_parameters_and_seeds_as_before(compose):
    """Checkpoints and seeds of conf/backbone/unet.yaml stay valid."""

    def conv(name, width_in, width_out, size):
        return [(f"{name}.weight", (width_out, width_in, size, size)), (f"{name}.bias", (width_out,))]

    def linear(name, width_in, width_out):
        return [(f"{name}.weight", (width_out, width_in)), (f"{name}.bias", (width_out,))]

    def norm(name, width):
        return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]

    def stage(name, width_in, width_out):
        name = f"{name}.block"
        shapes = [*norm(f"{name}.norm_in", width_in), *conv(f"{name}.conv_in", width_in, width_out, 3)]
        shapes += [*linear(f"{name}.embed", 128, width_out), *norm(f"{name}.norm_out", width_out)]
        shapes += conv(f"{name}.conv_out", width_out, width_out, 3)
        return shapes + (conv(f"{name}.skip", width_in, width_out, 1) if width_in != width_out else [])

    expected = [*linear("embed_time.0", 32, 128), *linear("embed_time.2", 128, 128), *conv("conv_in", 1, 32, 3)]
    expected += [*stage("down.0", 32, 32), *conv("down.1", 32, 32, 3), *stage("down.2", 32, 64)]
    expected += [*stage("middle.0", 64, 64), *stage("middle.1", 64, 64)]
    expected += [*stage("up.0", 128, 64), *stage("up.1", 96, 64), *conv("up.2", 64, 64, 3)]
    expected += [*stage("up.3", 96, 32), *stage("up.4", 64, 32), *norm("norm_out", 32), *conv("conv_out", 32, 1, 3)]
    settings = {name: value for name, value in compose().backbone.items() if name != "_target_"}
    torch.manual_seed(5)
    network = UNet(**settings)
    assert [(name, tuple(parameter.shape)) for name, parameter in network.named_parameters()] == expected
    torch.manual_seed(5)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            shape = layer.weight.shape
            again = torch.nn.Linear(shape[1], shape[0]) if len(shape) == 2 else torch.nn.Conv2d(*shape[1::-1], shape[2])
            assert not layer.weight.any() or torch.equal(layer.weight, again.weight)


@variants
def test_all_variants_start_at_zero_and_take_any_size_of_image(variant):
    """Sizes include odd and narrow images and a single pixel; a sample does not depend on the others in its batch."""
    network = build(variant)
    assert not network(*inputs()).any()
    network = without_zeros(network).double()
    for height, width in ((8, 8), (5, 7), (1, 6), (1, 1), (16, 3)):
        x, c_noise, cond = inputs(height, width)
        out = network(x.double(), c_noise, cond)
        assert out.shape == (3, 3, height, width)
        assert torch.isfinite(out).all()
        alone = network(x[2:].double(), c_noise[2:], cond[torch.tensor([2])])
        torch.testing.assert_close(alone, out[2:], rtol=0, atol=1e-9)


@variants
def test_every_parameter_learns(variant):
    """This includes the embeddings of classes and tokens, and those of the null condition."""
    network = build(variant)
    optimizer, (x, c_noise, cond) = torch.optim.Adam(network.parameters(), lr=1e-2), inputs()
    for _ in range(5):
        optimizer.zero_grad()
        (network(x, c_noise, cond) - 1).square().mean().backward()
        optimizer.step()
    untrained = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not untrained
    if network.embed_condition.classes is not None:
        rows = network.embed_condition.classes.weight.grad.any(dim=1)
        assert rows.nonzero().flatten().tolist() == [3, 9, 10]  # the second sample has the null class


@variants
def test_memory_format_does_not_change_the_numbers(variant):
    network, (x, c_noise, cond) = without_zeros(build(variant)).double(), inputs(6, 7)
    expected = network(x.double(), c_noise, cond)
    network = network.to(memory_format=torch.channels_last)
    out = network(x.double().to(memory_format=torch.channels_last), c_noise, cond)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", ["adm", "efficient", "sd"])
def test_checkpointing_recomputes_and_gives_the_same_gradients(variant):
    """The dropout is the same; recomputation happens in training only."""
    plain, saving = build(variant, dropout=0.5), build(variant, dropout=0.5, checkpointing=True)
    saving.load_state_dict(without_zeros(plain).state_dict())
    calls = outputs_of([saving.middle[0].block.conv_in])
    gradients, arguments = [], inputs()
    for network in (plain, saving):
        torch.manual_seed(1)
        network(*arguments).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert len(calls) == 2
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    saving.eval()(*arguments).square().sum().backward()
    assert len(calls) == 3


@pytest.mark.parametrize("variant", some(["efficient_adm", "ddpm", "sd_linear"], fast=1))
def test_it_compiles_to_one_graph(variant):
    """One of the networks has blocks that are recomputed."""
    torch.compiler.reset()
    network, arguments = without_zeros(build(variant, checkpointing=variant == "efficient_adm")), inputs(7, 8)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*arguments), network(*arguments), rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", ["adm", "sd"])
def test_the_time_is_embedded_in_float32(variant):
    """In a bfloat16 network, neighbouring large times have different embeddings."""
    network, inputs_of_mlp = without_zeros(build(variant)).bfloat16(), []
    network.embed_time.register_forward_pre_hook(lambda _, arguments: inputs_of_mlp.append(arguments[0]))
    x, _, cond = inputs()
    assert network(x.bfloat16(), torch.tensor([997.0, 998.0, 999.0]), cond).dtype == torch.bfloat16
    assert inputs_of_mlp[0].dtype == torch.bfloat16
    assert (inputs_of_mlp[0][:2] - inputs_of_mlp[0][1:]).abs().amax(dim=1).min() > 0.3


@pytest.mark.parametrize("variant", ["adm", "convnext_scale_shift", "sd", "sd_linear"])
def test_the_null_condition_is_one_condition(variant):
    """It does not depend on the condition that was dropped, and differs from that of any sample."""
    network, (x, c_noise, cond) = without_zeros(build(variant)).double(), inputs()
    x = x.double()
    null = network(x, c_noise, None)
    for dropped in (cond.null(), condition(tokens=torch.full((3, 4, 6), 9.0), is_null=None).null(), Condition()):
        torch.testing.assert_close(network(x, c_noise, dropped), null, rtol=0, atol=1e-10)
    given = network(x, c_noise, cond)
    torch.testing.assert_close(given[1], null[1], rtol=0, atol=1e-10)
    assert ((given - null)[[0, 2]].flatten(1).abs().amax(dim=1) > 1e-3).all()


def test_masked_tokens_do_not_matter_and_others_do():
    network, (x, c_noise, cond) = without_zeros(build("sd")).double(), inputs()
    changes = []
    for moved in (cond.token_mask, ~cond.token_mask):
        tokens = cond.tokens + moved[..., None]
        outputs = [network(x.double(), c_noise, condition(tokens=t)) for t in (cond.tokens, tokens)]
        changes.append((outputs[0] - outputs[1]).flatten(1).abs().amax(dim=1))
    assert (changes[0] > 1e-4).tolist() == [True, False, True]
    assert changes[1].max() < 1e-12


def test_without_a_mask_every_token_counts():
    network, (x, c_noise, cond) = without_zeros(build("sd")).double(), inputs()
    full = condition(tokens=cond.tokens, token_mask=torch.ones(3, 4, dtype=torch.bool))
    none = condition(tokens=cond.tokens, token_mask=None)
    torch.testing.assert_close(network(x.double(), c_noise, none), network(x.double(), c_noise, full))


def test_a_sample_whose_tokens_are_all_masked_has_the_null_condition():
    network, (x, c_noise, cond) = without_zeros(build("sd")).double(), inputs()
    outputs = network(x.double(), c_noise, condition(token_mask=torch.zeros(3, 4, dtype=torch.bool)))
    torch.testing.assert_close(outputs, network(x.double(), c_noise, cond.null()), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("order", "largest"), [("after", 11), ("before", 6)])
@pytest.mark.parametrize("block", ["ddpm", "biggan"])
@pytest.mark.parametrize("choice", [{"attention_resolutions": [3]}, {"attention_factors": [4]}])
def test_resolutions_and_factors_name_the_levels(choice, block, order, largest):
    """Of the chosen level, one stage down and two up attend, and the middle; ``before`` has no stage of full size."""
    settings = {"attention_resolutions": [], "channel_mult": [1, 1, 1], "num_res_blocks": 1, **choice}
    network = UNet(1, 1, 11, channels=8, block=block, resample_order=order, **settings)
    stages = [module for module in network.modules() if isinstance(module, ResidualStage)]
    attending, every = outputs_of([stage for stage in stages if stage.attention is not None]), outputs_of(stages)
    network(torch.randn(1, 1, 11, 11), torch.zeros(1))
    assert [output.shape[-1] for output in attending] == [3, {11: 3, 6: 2}[largest], 3, 3]
    assert max(output.shape[-1] for output in every) == largest


def test_skip_connections_are_scaled():
    """The last channels of each stage's input are the skip connection times the factor."""
    network, given = without_zeros(build("plain", skip_scale=0.25)), []
    left = outputs_of([network.conv_in, *network.down])
    for module in network.up:
        if isinstance(module, ResidualStage):
            module.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    network(*inputs())
    for skip, h in zip(reversed(left), given, strict=True):
        assert torch.equal(h[:, -skip.shape[1] :], 0.25 * skip)


def test_residual_sums_are_scaled():
    """Every branch starts at zero, so that n sums in a row are scale^n times the input."""
    stages = build("ncsnpp", channel_mult=[1], middle_attention=True, attention_factors=[1]).middle
    x, emb = torch.randn(2, 8, 4, 4).double(), torch.randn(2, 32).double()
    out = stages.double()[1](stages[0](x, emb), emb)
    torch.testing.assert_close(out, x / math.sqrt(2) ** 3)


@pytest.mark.parametrize(("width", "heads"), [(8, 1), (16, 1), (32, 2), (64, 4)])
def test_head_channels_give_wider_levels_more_heads(width, heads):
    network = UNet(1, 1, 8, channels=width, channel_mult=[1], attention_resolutions=[8], head_channels=16)
    assert network.middle[0].attention.heads == heads


def test_the_middle_attends_if_a_level_does_or_if_it_is_requested():
    def has(**settings):
        return UNet(1, 1, 8, channels=8, **settings).middle[0].attention is not None

    assert has(attention_resolutions=[4])
    assert has(attention_resolutions=[], middle_attention=True)
    assert not has(attention_resolutions=[4], middle_attention=False)
    assert not has(attention_resolutions=[])


def test_levels_are_joined_by_convolutions_or_by_residual_blocks():
    for variant, kinds in (("plain", {Downsample, Upsample}), ("adm", {ResidualBlock})):
        network = build(variant)
        assert {type(module) for module in (*network.down, *network.up)} == {ResidualStage, *kinds}


@pytest.mark.parametrize(
    ("preset", "levels"),
    [
        ("unet_ddpm_cifar10", 4),
        ("unet_iddpm_cifar10", 4),
        ("unet_iddpm_imagenet64", 4),
        ("unet_sd", 4),
        ("adm_64", 4),
        ("adm_128", 5),
        ("adm_256", 6),
    ],
)
def test_published_networks_at_other_sizes_keep_their_levels(compose, preset, levels):
    """Attention is at the same levels for all sizes; a network of more than 4 levels is refused for 8 pixels."""
    settings = {name: value for name, value in compose(f"backbone={preset}").backbone.items() if name != "_target_"}

    def stages(image_size):
        with torch.device("meta"):
            network = UNet(**{**settings, "image_size": image_size})
        return [
            isinstance(m, ResidualStage) and m.attention is not None
            for m in (*network.down, *network.middle, *network.up)
        ]

    assert stages(2**levels) == stages(48) == stages(256)
    if levels > 4:
        with pytest.raises(ValueError, match=f"backbone.channel_mult has {levels} levels, but .* after 4; use fewer"):
            stages(8)
    else:
        without_zeros(UNet(**{**settings, "channels": 8}))(torch.randn(1, 1, 8, 8), torch.zeros(1))
