"""Conditioning on a degraded image: what the network reads, its noise, and what guidance gets."""

import pytest
import torch

from diffsweep.conditioning import ClassLabel, ImageConditioning, ImageFeatures, Joint
from diffsweep.datasets import InMemory, rows_of
from diffsweep.degradations import Border, Box, Downsampling, Greyscale, Jpeg
from diffsweep.diffusion import Noise, PixelMask, SquareMeans


def samples(count=5, channels=3, size=8):
    torch.manual_seed(0)
    return InMemory({"x": torch.rand(count, channels, size, size) * 2 - 1, "label": torch.arange(count) % 4})


def test_the_network_reads_the_degraded_training_image():
    batch, noise = samples()[torch.arange(5)], Noise(3, torch.arange(10, 15))
    for degradation in (Downsampling(4), Box(), Jpeg((5, 80))):
        conditioning = ImageConditioning(degradation, 3, 8).train()
        assert conditioning.sizes == {"image_channels": 3 + degradation.extra_channels}
        assert torch.equal(conditioning(batch, noise).image, degradation.image(batch["x"], noise))
    with pytest.raises(ValueError, match="Box draws random numbers"):
        ImageConditioning(Box(), 3, 8)(batch)


def test_held_out_samples_are_degraded_by_their_number():
    data, conditioning = samples(), ImageConditioning(Box(), 3, 8)
    batch = {**data[torch.tensor([1, 2])], "index": torch.tensor([1, 2])}
    image = conditioning(batch).image
    request = conditioning.request(torch.tensor([6, 2]), data)
    assert torch.equal(conditioning(request).image, image)
    assert torch.equal(image, Box().image(batch["x"], Noise(0, batch["index"])))
    with pytest.raises(ValueError, match="give the data"):
        conditioning.request(torch.arange(2), None)


def test_a_request_has_the_original_for_metrics_and_guidance_gets_the_measurement():
    data = samples()
    request = ImageConditioning(Downsampling(2), 3, 8).request(torch.tensor([6, 2]), data)
    assert request.keys() == {"image", "known", "clean"}
    assert torch.equal(request["clean"], data["x"][[1, 2]])
    cond = ImageConditioning(Downsampling(2), 3, 8)(rows_of(request, torch.tensor([1])))
    assert isinstance(cond.known.measurement, SquareMeans)
    assert torch.equal(cond.known.y, SquareMeans(2).apply(data["x"][[2]]))
    masked = ImageConditioning(Border(0.5, "left"), 3, 8)
    cond = masked(rows_of(masked.request(torch.tensor([6, 2]), data), torch.tensor([0])))
    assert isinstance(cond.known.measurement, PixelMask)
    assert torch.equal(cond.known.project(torch.zeros(1, 3, 8, 8))[..., 4:], data["x"][[1]][..., 4:])
    x = torch.zeros(1, 3, 8, 8)
    assert torch.equal(cond.pasted(x), cond.known.project(x))
    assert ImageConditioning(Border(), 3, 8, paste=False).request(torch.arange(2), data).keys() == request.keys()
    assert ImageConditioning(Jpeg(10), 3, 8).request(torch.arange(2), data).keys() == {"image", "clean"}


def test_noise_of_a_drawn_level_is_added_in_training_and_of_a_chosen_one_in_sampling():
    """The level is an input of the network; the mask gets no noise."""
    count = 4000
    batch, noise = {"x": torch.zeros(count, 1, 8, 8)}, Noise(0, torch.arange(count))
    conditioning = ImageConditioning(Border(0.5), 1, 8, augmentation=0.8, level=0.3).train()
    assert conditioning.sizes == {"image_channels": 2, "num_scalars": 1}
    cond = conditioning(batch, noise)
    level = cond.scalars[:, 0] / 1000
    assert 0 < level.min() < 0.001 < 0.799 < level.max() < 0.8
    assert abs(level.mean().item() - 0.4) < 0.012
    spread = cond.image[:, 0].flatten(1).std(1)
    torch.testing.assert_close((spread / level)[level > 0.01].mean(), torch.tensor(1.0), rtol=0, atol=0.01)
    assert torch.equal(cond.image[:, 1], Border(0.5).image(batch["x"])[:, 1])
    data = InMemory({"x": torch.full((3, 1, 8, 8), 0.5)})
    cond = conditioning.eval()(conditioning.request(torch.arange(count), data))
    assert torch.equal(cond.scalars, torch.full((count, 1), 300.0))
    known, shown = Border(0.5).image(data["x"][:1])[:, :1], cond.image[:, :1]
    torch.testing.assert_close(shown.mean(0), (1 - 0.3**2) ** 0.5 * known[0], rtol=0, atol=0.03)
    assert abs(shown.std(0).mean().item() - 0.3) < 0.005
    other = conditioning(conditioning.request(torch.arange(5, 9), data))
    assert torch.equal(other.image, cond.image[5:9])  # sample i has its noise in any batch
    plain = ImageConditioning(Border(0.5), 1, 8, augmentation=0.8)  # level 0 adds nothing
    assert torch.equal(plain(plain.request(torch.arange(3), data)).image, Border(0.5).image(data["x"]))


def test_an_image_and_a_class_are_conditions_together():
    batch, noise = samples()[torch.arange(5)], Noise(0, torch.arange(5))
    joint = Joint({"class": ClassLabel(4), "image": ImageConditioning(Box(), 3, 8, augmentation=0.5)}).train()
    assert joint.sizes == {"num_classes": 4, "image_channels": 4, "num_scalars": 1}
    assert joint.requires_pixels
    cond = joint(batch, noise)
    assert torch.equal(cond.vector, batch["label"])
    assert cond.image.shape == (5, 4, 8, 8)
    request = joint.request(torch.arange(3), samples())
    assert request.keys() == {"label", "image", "level", "known", "pasted", "clean"}


def test_features_of_different_images_differ_and_are_trained():
    conditioning = ImageFeatures(Downsampling(2), 3, 8, vector_dim=6)
    cond = conditioning({"x": samples()["x"]})
    assert cond.vector.shape == (5, 6)
    assert cond.image is None
    assert conditioning.sizes == {"vector_dim": 6}
    assert torch.cdist(cond.vector, cond.vector).add(torch.eye(5)).min() > 1e-4
    cond.vector.square().sum().backward()
    assert all(parameter.grad.any() for parameter in conditioning.parameters())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ImageConditioning(Downsampling(3), 3, 8), "factor=3 does not divide the image's 8 pixels"),
        (lambda: ImageConditioning(Greyscale(), 1, 8), "3 weights of grey, and images have 1 channel"),
        (lambda: ImageConditioning(Greyscale(), 3, 8, augmentation=2), r"augmentation must lie in \[0, 1\], not 2"),
        (lambda: ImageConditioning(Greyscale(), 3, 8, level=0.1), "level=0.1 must lie between 0 and .*augmentation=0,"),
        (lambda: ImageFeatures(Greyscale(), 3, 8, vector_dim=0), "conditioning.vector_dim must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
