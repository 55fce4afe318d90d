"""Autoencoders in diffusers' format, which diffusers writes with small random weights."""

import json
import re
import sys

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from safetensors.torch import load_file, save_file

from diffsweep.autoencoders import PublicAutoencoder, VQAutoencoder

WEIGHTS = "diffusion_pytorch_model.safetensors"


def write(folder, kind=AutoencoderKL, **settings):
    """Return diffusers' autoencoder of a class, with random weights, after writing it to a folder."""
    torch.manual_seed(3)
    theirs = kind(**{
        "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"], "block_out_channels": [8, 12],
        "latent_channels": 2, "norm_num_groups": 2, "sample_size": 16, "scaling_factor": 0.25, **settings,
    })  # fmt: skip
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(folder)
    return theirs.eval()


def change_config(folder, **changes):
    """Change some keys of a configuration."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path)
    return tmp_path


def assert_equal(ours, theirs, shift=0.0):
    """Assert that moments and images are equal, with latents (h - shift) times the scaling factor as in pipelines."""
    x, scaling = torch.randn(2, 3, 16, 16), theirs.config.scaling_factor
    ours.eval()
    with torch.no_grad():
        distribution = theirs.encode(x).latent_dist
        mean, std = ours.posterior(x).chunk(2, dim=1)
        torch.testing.assert_close(mean, (distribution.mean - shift) * scaling, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(std, distribution.std * scaling, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.decode(mean), theirs.decode(distribution.mean).sample, rtol=1e-4, atol=1e-5)
    assert mean.std() > 1e-3


@pytest.mark.parametrize("subfolder", [None, "vae"])
@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shift_factor": 0.5, "use_quant_conv": False, "use_post_quant_conv": False},
        {"mid_block_add_attention": False, "layers_per_block": 2},
    ],
)
def test_it_equals_the_autoencoder_that_diffusers_wrote(tmp_path, settings, safe, subfolder):
    place = tmp_path / (subfolder or "")
    theirs = write(place, **settings)
    if not safe:
        torch.save(load_file(place / WEIGHTS), place / "diffusion_pytorch_model.bin")
        (place / WEIGHTS).unlink()
    public = PublicAutoencoder(str(tmp_path), subfolder)
    assert public.sizes == (3, 2, 2)
    ours = public()
    assert ours.shape == (2, 8, 8)  # of sample_size
    assert_equal(ours, theirs, settings.get("shift_factor", 0.0))
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in ours.parameters())


@pytest.mark.parametrize("settings", [{}, {"vq_embed_dim": 2, "norm_type": "group", "mid_block_add_attention": False}])
def test_a_vq_model_is_read_with_its_codebook(tmp_path, settings):
    theirs, x = write(tmp_path, VQModel, num_vq_embeddings=20, **settings), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        theirs.quantize.embedding.weight.copy_(theirs.encode(x).latents[0].flatten(1).T[:20])
    theirs.save_pretrained(tmp_path)
    public = PublicAutoencoder(str(tmp_path))
    assert public.sizes == (3, 2, 2)
    ours = public().eval()
    assert isinstance(ours, VQAutoencoder)
    assert torch.equal(ours.codebook.embedding, theirs.quantize.embedding.weight)
    with torch.no_grad():
        h = theirs.encode(x).latents
        torch.testing.assert_close(ours.posterior(x), h * 0.25, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.decode(h * 0.25), theirs.decode(h).sample, rtol=1e-4, atol=1e-5)
        assert len(ours.codebook.quantise(h)[1].unique()) > 3
    change_config(tmp_path, vq_embed_dim=3)
    with pytest.raises(ValueError, match="vq_embed_dim=3; this network has 2"):
        PublicAutoencoder(str(tmp_path))


def test_older_names_of_attention_are_read(tmp_path):
    theirs = write(tmp_path)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {
        re.sub("|".join(older), lambda match: older[match[0]], name): weight
        for name, weight in load_file(tmp_path / WEIGHTS).items()
    }
    assert any("proj_attn" in name for name in weights)
    save_file(weights, tmp_path / WEIGHTS)
    assert_equal(PublicAutoencoder(str(tmp_path))(16), theirs)


def test_half_precision_weights_are_read_as_float32(tmp_path):
    theirs = write(tmp_path).half()
    theirs.save_pretrained(tmp_path)
    ours = PublicAutoencoder(str(tmp_path))()
    assert {value.dtype for value in ours.state_dict().values()} == {torch.float32}
    assert_equal(ours, theirs.float())


def test_reading_draws_no_random_numbers(folder):
    before = torch.get_rng_state()
    PublicAutoencoder(str(folder))()
    assert torch.equal(torch.get_rng_state(), before)


def test_sizes_need_no_weights(folder):
    (folder / WEIGHTS).unlink()
    public = PublicAutoencoder(str(folder))
    assert public.sizes == (3, 2, 2)
    with pytest.raises(ValueError, match=r"no diffusion_pytorch_model.safetensors or diffusion_pytorch_model.bin"):
        public()


def test_missing_keys_have_the_defaults_of_the_format(tmp_path):
    theirs = write(tmp_path, scaling_factor=0.18215)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("scaling_factor", "shift_factor", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"):
        config.pop(key)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_equal(PublicAutoencoder(str(tmp_path))(), theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AutoencoderDC"}, "is of the class AutoencoderDC; only AutoencoderKL and VQModel can be read"),
        ({"act_fn": "gelu"}, "act_fn=gelu; this network has silu"),
        ({"out_channels": 4}, "out_channels=4; this network has 3"),
        ({"latents_std": [1.0, 2.0]}, r"latents_std=\[1.0, 2.0\]"),
        ({"norm_num_groups": 4}, r"norm_num_groups=4; this network has at most 2, a divisor of the 8 channels"),
        ({"down_block_types": ["DownEncoderBlock2D", "Other"]}, "down_block_types=.*this network has 2 of DownEnc"),
        ({"up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]}, "up_block_types=.*where down_block_types has"),
        ({"scaling_factor": 0}, "scaling_factor=0"),
    ],
)
def test_unsupported_configurations_are_refused_by_their_key(folder, changes, message):
    change_config(folder, **changes)
    with pytest.raises(ValueError, match=message) as error:
        PublicAutoencoder(str(folder))
    assert "\n" not in str(error.value)
    assert f"autoencoder.model.path={folder}" in str(error.value)


def test_weights_that_are_not_those_of_the_configuration_are_refused(folder):
    weights = load_file(folder / WEIGHTS)
    save_file({**weights, "decoder.extra": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"has decoder.extra, which config.json does not describe"):
        PublicAutoencoder(str(folder))()
    weights.pop("encoder.conv_in.bias")
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"has no encoder.conv_in.bias"):
        PublicAutoencoder(str(folder))()
    save_file({**weights, "encoder.conv_in.bias": torch.zeros(5)}, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"shape \(5,\), but by config.json encoder.conv_in.bias is \(8,\)"):
        PublicAutoencoder(str(folder))()
    (folder / WEIGHTS).write_bytes(b"torn")
    with pytest.raises(ValueError, match="cannot be read"):
        PublicAutoencoder(str(folder))()


def test_a_pickle_with_code_is_not_read(folder):
    (folder / WEIGHTS).unlink()
    torch.save({"encoder.conv_in.bias": re.compile("x")}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read"):
        PublicAutoencoder(str(folder))()


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the folder has no config.json"):
        PublicAutoencoder(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        PublicAutoencoder(str(tmp_path))


@pytest.mark.parametrize("path", ["/no/such/place", "diffsweep-tests/absent"])
def test_a_path_that_is_neither_folder_nor_model_is_refused_in_a_line(monkeypatch, path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=f"autoencoder.model.path={path} is neither a folder with config.json nor"
    ) as error:
        PublicAutoencoder(path)
    assert "\n" not in str(error.value)


def test_a_model_of_the_hub_is_downloaded_file_by_file(monkeypatch, folder):
    theirs, requests = write(folder / "vae"), []

    def download(repo, name, subfolder=None):
        requests.append((repo, name))
        if not (folder / subfolder / name).exists():
            raise FileNotFoundError(name)
        return str(folder / subfolder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert_equal(PublicAutoencoder("owner/model", "vae")(), theirs)
    assert requests == [("owner/model", "config.json"), ("owner/model", WEIGHTS)]


@pytest.mark.parametrize(("package", "path"), [("huggingface_hub", "owner/model"), ("safetensors.torch", None)])
def test_a_package_that_is_not_installed_is_named(monkeypatch, folder, package, path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"pip install {package.split('.')[0]}"):
        PublicAutoencoder(path or str(folder))()
