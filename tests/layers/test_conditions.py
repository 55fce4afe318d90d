"""Embeddings of conditions: feature vectors, numbers, classes and images, and their null embeddings."""

import math

import pytest
import torch

from diffsweep.backbones import DiT, UNet, UViT
from diffsweep.diffusion import Condition
from diffsweep.layers import ConditionEmbedding, with_image
from diffsweep.layers.conditions import ScalarEmbedding, VectorEmbedding


def test_features_are_embedded_by_an_mlp_and_missing_ones_by_the_null_embedding():
    embed, vector = VectorEmbedding(3, 5), torch.randn(4, 3)
    torch.nn.init.normal_(embed.null)
    first, second = embed.mlp[0], embed.mlp[2]
    h = vector @ first.weight.T + first.bias
    expected = (h / (1 + (-h).exp())) @ second.weight.T + second.bias
    torch.testing.assert_close(embed(vector, None, 4), expected)
    some = embed(vector, torch.tensor([False, True, False, True]), 4)
    torch.testing.assert_close(some[::2], expected[::2])
    assert torch.equal(some[1::2], embed.null.expand(2, -1))
    assert torch.equal(embed(None, None, 2), embed.null.expand(2, -1))


def test_numbers_are_embedded_as_sinusoids_of_each_number():
    embed, numbers = ScalarEmbedding(2, 6, frequencies=4), torch.tensor([[0.5, 20.0], [3.0, 0.0]])
    waves = [
        [f(value * omega) for value in row for f in (math.cos, math.sin) for omega in (1, 0.01)]
        for row in numbers.tolist()
    ]
    torch.testing.assert_close(embed(numbers, None, 2), embed.mlp(torch.tensor(waves)))


def test_only_the_configured_parts_are_embedded():
    embed = ConditionEmbedding(4, num_classes=3, num_scalars=2)
    cond = Condition(vector=torch.tensor([1, 2]), scalars=torch.randn(2, 2))
    vectors = embed(cond, 2)
    assert len(vectors) == embed.count == 2
    assert torch.equal(vectors[0], embed.classes.weight[[1, 2]])
    assert ConditionEmbedding(4)(cond, 2) == []
    with pytest.raises(ValueError, match="either class ids or features"):
        ConditionEmbedding(4, num_classes=3, vector_dim=2)


def test_an_image_becomes_channels_beside_x_and_a_missing_image_zeros():
    x, image = torch.randn(2, 1, 3, 3), torch.randn(2, 2, 3, 3)
    assert with_image(x, Condition(image=image), 0) is x
    assert torch.equal(with_image(x, Condition(image=image), 2), torch.cat([x, image], 1))
    some = with_image(x, Condition(image=image, is_null=torch.tensor([True, False])), 2)
    assert not some[0, 1:].any()
    assert torch.equal(some[1, 1:], image[1])
    assert not with_image(x, Condition(), 2)[:, 1:].any()


BACKBONES = {
    "unet": lambda **options: UNet(1, 1, 8, channels=8, num_res_blocks=1, **options),
    "dit": lambda **options: DiT(1, 1, 8, channels=16, depth=1, **options),
    "uvit": lambda **options: UViT(1, 1, 8, channels=16, depth=3, **options),
}
PARTS = {
    "num_classes": (3, lambda i: {"vector": torch.tensor([i, i])}),
    "vector_dim": (4, lambda i: {"vector": torch.randn(2, 4)}),
    "num_scalars": (2, lambda i: {"scalars": torch.randn(2, 2)}),
    "image_channels": (2, lambda i: {"image": torch.randn(2, 2, 8, 8)}),
    "context_dim": (5, lambda i: {"tokens": torch.randn(2, 3, 5)}),
}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", PARTS)
def test_each_accepted_part_reaches_the_output_but_not_in_null_rows(backbone, name):
    size, part = PARTS[name]
    if (backbone, name) == ("uvit", "context_dim"):
        return
    network = BACKBONES[backbone](**{name: size})
    assert network.accepts == {name: size}
    for parameter in network.parameters():  # layers that start at zero would hide the condition
        torch.nn.init.normal_(parameter, std=0.2)
    x, c_noise = torch.randn(2, 1, 8, 8), torch.tensor([10.0, 700.0])
    one, other = Condition(**part(0)), Condition(**part(1))
    a, b = (network(x, c_noise, cond) for cond in (one, other))
    assert (a - b).abs().amax((1, 2, 3)).min() > 1e-4
    half = torch.tensor([True, False])
    a, b = (network(x, c_noise, cond.null(half)) for cond in (one, other))
    torch.testing.assert_close(a[0], b[0])
    assert (a[1] - b[1]).abs().max() > 1e-4
    torch.testing.assert_close(network(x, c_noise, one.null()), network(x, c_noise, None))
