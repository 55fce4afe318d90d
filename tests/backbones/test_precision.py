"""Mixed precision: what is rounded to bfloat16 or float16 in networks, and what stays in float32."""

import warnings

import pytest
import torch
from torch.nn import functional

from diffsweep.backbones import DiT, DiT3D, UNet, UNet3D, UViT
from diffsweep.backbones.unet_blocks import TokenAttention
from diffsweep.layers import CrossAttention, SelfAttention, SelfAttention2d, SinusoidalEmbedding, TemporalAttention
from diffsweep.layers.norms import token_norm
from diffsweep.layers.temporal import Clips

SWITCHES = {"rms_norm": True, "qk_norm": True, "rope": True, "swiglu": True}
PARTS = {"channels": 16, "num_heads": 2}
NETWORKS = {
    "unet": lambda: UNet(1, 1, 8, channels=8, attention_factors=[2]),
    "dit": lambda: DiT(1, 1, 8, depth=2, **PARTS),
    "pixart": lambda: DiT(1, 1, 8, block="adaln_single", depth=2, **SWITCHES, **PARTS),
    "uvit": lambda: UViT(1, 1, 8, depth=3, **SWITCHES, **PARTS),
    "unet3d": lambda: UNet3D(in_channels=1, out_channels=1, image_size=8, channels=8, attention_factors=[2]),
    "dit3d": lambda: DiT3D(in_channels=1, out_channels=1, image_size=8, num_frames=3, depth=2, **PARTS),
}
TIMES = torch.tensor([998.0, 450.6])  # in bfloat16 they are 1000 and 450
ERRORS = {torch.bfloat16: 0.03, torch.float16: 0.004}  # eight times the rounding of one number


def randomised(network):
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1) if not parameter.any() else None
    return network.eval()


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_networks_round_activations_but_neither_times_nor_norms(name, dtype):
    """The sines of times are those of float64 to 1e-4; of times in bfloat16 they would be off by more than 1."""
    torch.manual_seed(0)
    network, seen = randomised(NETWORKS[name]()), []
    (sinusoids,) = (part for part in network.modules() if isinstance(part, SinusoidalEmbedding))
    sinusoids.register_forward_hook(lambda _, __, output: seen.append(output))
    x = torch.randn(2, 1, *[3] * name.endswith("3d"), 8, 8)
    with torch.autocast("cpu", dtype=dtype), warnings.catch_warnings():
        warnings.simplefilter("error")
        mixed = network(x, TIMES)
        large = network(1e4 * x, TIMES)
    exact = network.double()(x.double(), TIMES.double())
    assert seen[0].dtype == torch.float32
    frames = len(seen[0]) // 2
    torch.testing.assert_close(seen[0].double(), seen[-1][: 2 * frames], rtol=0, atol=1e-4)
    assert (sinusoids(TIMES.bfloat16().double()) - sinusoids(TIMES.double())).abs().max() > 1
    assert (mixed - exact).norm() < ERRORS[dtype] * exact.norm()
    assert torch.isfinite(large).all()


def attention(kind, channels=32):
    """Return an attention whose queries and keys are of size 300 for tokens of size 1, and its inputs."""
    layer = {
        "maps": lambda: SelfAttention2d(channels, 2, zero=False),
        "tokens": lambda: SelfAttention(channels, 2),
        "context": lambda: CrossAttention(channels, 2),
        "both": lambda: TokenAttention(channels, 2, channels),
        "frames": lambda: TemporalAttention(channels, 2),
    }[kind]()
    tokens = torch.randn(2, 16, channels)
    maps = tokens.mT.unflatten(2, (4, 4))
    inputs = {
        "maps": (maps,),
        "tokens": (tokens,),
        "context": (tokens, tokens),
        "both": (tokens, tokens),
        "frames": (maps, Clips(2)),
    }[kind]
    for name, weight in layer.named_parameters():
        if "to_q" in name or "to_k" in name:
            torch.nn.init.normal_(weight, std=300 / channels**0.5)
    return layer, inputs


@pytest.mark.parametrize("kind", ["maps", "tokens", "context", "both", "frames"])
@torch.no_grad()
def test_attention_of_large_queries_is_finite_in_float16(kind, monkeypatch):
    """Logits q . k are beyond 65,504, the largest number of float16, and are computed in float32."""
    largest = []

    def watched(q, k, v, **keywords):
        largest.append((q.half() @ k.half().mT).abs().max().item())
        return attend(q, k, v, **keywords)

    attend = functional.scaled_dot_product_attention
    torch.manual_seed(0)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    layer, inputs = attention(kind)
    if hasattr(layer, "attend"):
        layer.attend = watched
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.isfinite(layer(*inputs)).all()
    assert largest == [float("inf")]


def test_rms_norm_is_in_float32_under_autocast():
    norm, x = token_norm(8, rms=True), torch.randn(3, 8)
    torch.nn.init.normal_(norm.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("error")
        mixed = norm(x.bfloat16())
    exact = norm.double()(x.bfloat16().double())
    torch.testing.assert_close(mixed, exact.float(), rtol=1e-6, atol=1e-6)
