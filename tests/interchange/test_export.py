"""The command export.py: folders of each format, their model cards, uploads, and refusals in one line."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from slower import some

import diffsweep

FEW = ("sampler=ddim", "sampler.steps=5", "sampler.spacing=trailing")


def front_matter(folder):
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return OmegaConf.create(head), body


def test_a_run_becomes_a_pipeline_with_its_images(finished, tmp_path, command):
    from diffusers import DiffusionPipeline

    folder = tmp_path / "a folder"
    done = command("export", f"run={finished}", *FEW, f"output={folder}")
    assert done.code == 0, done.err
    assert "DiffsweepPipeline" in done.out
    head, body = front_matter(folder)
    assert head.library_name == "diffusers"
    assert f'from_pretrained("{folder.name}", trust_remote_code=True)' in body
    assert f'from_pretrained("{folder}", trust_remote_code=True)' in done.out
    assert "![samples]" not in body or (folder / "final.png").is_file()
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    loaded = diffsweep.load(finished, FEW)
    noise = loaded.model.noise_of(torch.arange(3), 0)
    from diffsweep.diffusion import Stream

    images = pipeline(latents=noise.normal(1, 8, 8, stream=Stream.PRIOR), output_type="pt").images
    expected = (loaded.sample(3, seed=0) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)
    again = command("export", f"run={finished}", *FEW, f"output={folder}")
    assert again.code == 2
    assert "exists" in again.err


@pytest.mark.parametrize("weights", some(["raw", "ema"], 1))
def test_weights_and_their_configuration_are_written(finished, tmp_path, command, checkpoint, weights):
    done = command("export", f"run={finished}", "format=safetensors", f"weights={weights}", f"output={tmp_path / 'w'}")
    assert done.code == 0, done.err
    state, saved = load_file(tmp_path / "w" / "model.safetensors"), checkpoint(finished)
    name = "denoiser.backbone.conv_in.weight"
    averaged = saved.get("ema", {}).get("weights", saved["state_dict"])
    assert torch.equal(state[name], (averaged if weights == "ema" else saved["state_dict"])[name])
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    assert config["schedule"]["num_steps"] == 500
    assert config["backbone"]["in_channels"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "torch_export"])
def test_graphs_have_the_outputs_of_the_network(finished, tmp_path, command, name):
    """The command compares them in batches of other sizes than the one that was traced."""
    done = command("export", f"run={finished}", f"format={name}", f"output={tmp_path / name}")
    assert done.code == 0, done.err
    assert "differ from those of the run's network by at most" in done.out
    if name == "torch_export":
        network = torch.export.load(tmp_path / name / "network.pt2").module()
        x, c_noise = torch.randn(5, 1, 8, 8), torch.linspace(0, 999, 5)
        expected = diffsweep.load(finished).model.denoiser.backbone.cpu()(x, c_noise)
        torch.testing.assert_close(network(x, c_noise), expected, rtol=0, atol=1e-5)


REFUSED = [
    (("format=pickle",), "format=pickle: it is one of diffusers, safetensors, onnx, torch_export"),
    (("sampler=predictor_corrector", "sampler.clip=none"), "no scheduler that takes the steps of PredictorCorrector"),
    (("weights=best",), "weights=best: it is one of ema, raw"),
    (("push=nobody",), "USER/NAME"),
    (("sampler=dpm_solver_pp",), "add sampler.spacing=trailing"),
    (("sampler=euler",), "add sampler.clip=none"),
]


@pytest.mark.parametrize("case", some(REFUSED, 2))
def test_what_cannot_be_written_is_one_line(finished, tmp_path, command, case):
    words, expected = case
    done = command("export", f"run={finished}", "sampler.steps=5", f"output={tmp_path / 'new'}", *words)
    assert done.code == 2
    assert expected in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


REGULAR = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}


class Hub(BaseHTTPRequestHandler):
    """A stand-in for the hub that takes a repository and a commit of small files."""

    paths: list[str] = []  # noqa: RUF012
    bodies: list[bytes] = []  # noqa: RUF012

    def log_message(self, *_):
        pass

    def _answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.paths.append(self.path)
        self._answer({"sha": "0" * 40, "id": "me/model", "siblings": [], "private": True})

    def do_POST(self):
        self.paths.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.bodies.append(body)
        address = f"http://{self.headers['Host']}/me/model"
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._answer({"files": [{**REGULAR, "path": each["path"]} for each in files]})
        elif "/commit/" in self.path:
            self._answer({"commitUrl": address, "commitOid": "1" * 40, "success": True})
        else:
            self._answer({"url": address, "id": "me/model"})


@pytest.fixture
def hub(monkeypatch):
    """The address of a stand-in for the hub, for which a token is known."""
    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield address
    server.shutdown()


def test_a_folder_is_uploaded(tmp_path, hub):
    from diffsweep.interchange.hub import push

    (tmp_path / "README.md").write_text("a card")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    assert push(tmp_path, "me/model", private=True) == f"{hub}/me/model"
    assert any(path.startswith("/api/repos/create") for path in Hub.paths)
    sent = [json.loads(line) for line in Hub.bodies[-1].splitlines()]
    assert {each["value"]["path"] for each in sent if each["key"] == "file"} == {"README.md", "unet/config.json"}


def test_without_a_token_or_a_network_it_is_one_line(tmp_path, monkeypatch):
    from diffsweep.errors import UserError
    from diffsweep.interchange.hub import push

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with pytest.raises(UserError, match="does not take the upload") as raised:
        push(tmp_path, "me/model", private=True)
    assert "\n" not in str(raised.value)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="hf auth login"):
        push(tmp_path, "me/model", private=True)
