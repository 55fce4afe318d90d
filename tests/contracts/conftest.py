"""Backbones at a size for digits of 8 pixels."""

import pytest

SHALLOW = ("backbone.channel_mult=[1,2]", "backbone.attention_factors=[2]", "backbone.num_res_blocks=1")
PUBLISHED_UNETS = (
    *("unet_ddpm_cifar10", "unet_iddpm_cifar10", "unet_iddpm_imagenet64", "unet_sd"),
    *("adm_64", "adm_128", "adm_256"),
)
SMALL = dict.fromkeys(PUBLISHED_UNETS, SHALLOW)


@pytest.fixture(scope="session")
def small():
    """``small("adm_256")``: overrides that make a backbone narrow, and as shallow as digits need."""
    return lambda backbone: ("backbone.channels=8", *SMALL.get(backbone, ()))
