"""Calls recorded as CUDA graphs: what is recorded, and that no output is in memory that a later call writes into."""

import copy

import pytest
import torch
from compiling import INPUTS, NETWORKS, gradients, randomised

from diffsweep.backbones import Execution, execution
from diffsweep.diffusion import Eps, NetworkDenoiser, Noise, Stream
from diffsweep.samplers import DPMSolverPP
from diffsweep.schedules import Cosine

pytestmark = pytest.mark.usefixtures("nothing_compiled")


class Replaying:
    """A compiler whose code writes each output into the memory of the one before, as replays of a CUDA graph do."""

    def __init__(self):
        self.options, self.calls = [], 0

    def __call__(self, graph, inputs, options=None):
        self.options.append(options)
        if options is None:
            return graph.forward
        memory = []

        def replay(*arguments):
            self.calls += 1
            outputs = graph.forward(*arguments)
            memory[:] = memory or [output.clone() for output in outputs]
            return tuple(kept.copy_(output) for kept, output in zip(memory, outputs, strict=True))

        return replay


@pytest.fixture
def replaying(compilers, monkeypatch):
    """A compiler by name, and what it has done; calls on the CPU are recorded too."""
    monkeypatch.setattr(execution, "GRAPHED", {"cpu", "cuda"})
    compiler = Replaying()
    return compilers("replaying", compiler), compiler


class Tiny(torch.nn.Module):
    """A network that takes little time to compile."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.map = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, c_noise, cond=None):
        return self.map(x).sin() + c_noise.reshape(-1, 1, 1, 1) / 1000


def sampled(network, device="cpu", order=3):
    """Return what a sampler draws that keeps the outputs of the steps before."""
    denoiser = NetworkDenoiser(network, Cosine(), Eps())
    noise = Noise(0, torch.arange(2, device=device))
    return DPMSolverPP(steps=6, order=order)(denoiser, noise.normal(1, 8, 8, stream=Stream.PRIOR), noise=noise)


def test_the_option_reaches_the_compiler_for_calls_without_gradients_alone(replaying):
    name, compiler = replaying
    network = Tiny()
    Execution("network", name, cuda_graphs=True)([network])
    gradients(network)
    assert compiler.options == [None]
    with torch.no_grad():
        network(*INPUTS)
    assert compiler.options == [None, {"triton.cudagraphs": True}]


def test_samples_of_a_multistep_solver_are_those_of_the_network(replaying):
    name, compiler = replaying
    network = Tiny().eval()
    expected = sampled(network)
    Execution("network", name, cuda_graphs=True)([network])
    torch.testing.assert_close(sampled(network), expected)
    assert compiler.calls >= 6
    with torch.no_grad():
        one, two = network(*INPUTS), network(*INPUTS)
    assert one.untyped_storage().data_ptr() != two.untyped_storage().data_ptr()


def test_outputs_of_several_tensors_are_copied_too(replaying):
    class Pair(torch.nn.Module):
        def forward(self, x):
            return x + 1, (2 * x, None)

    network = Pair()
    Execution("network", replaying[0], cuda_graphs=True)([network])
    with torch.no_grad():
        (one, (two, nothing)), _ = network(torch.ones(2)), network(torch.zeros(2))
    assert (one.tolist(), two.tolist(), nothing) == ([2, 2], [2, 2], None)


def test_on_a_cpu_networks_are_compiled_with_one_warning(compilers, capsys):
    compiler = Replaying()
    networks = [Tiny(), Tiny()]
    Execution("network", compilers("replaying", compiler), cuda_graphs=True)(networks)
    with torch.no_grad():
        for network in networks * 2:
            network(*INPUTS)
    assert compiler.options == [None]  # both networks have the same code
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 1
    assert warned[0].startswith("warning: execution.cuda_graphs=true records calls on CUDA devices, not on cpu;")


@pytest.mark.parametrize("regions", ["none", "blocks"])
def test_blocks_are_not_recorded(regions):
    with pytest.raises(ValueError, match=r"^execution\.cuda_graphs=true records whole networks, .*compile=network"):
        Execution(regions, cuda_graphs=True)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_on_a_gpu_samples_and_training_are_those_of_the_network(name):
    """Training by accumulated gradients and sampling with averaged weights, which lie in other memory, in turn."""
    results = {}
    start = randomised(NETWORKS[name]()).cuda()
    for cuda_graphs in (False, True):
        network = copy.deepcopy(start)
        if cuda_graphs:
            Execution("network", cuda_graphs=True)([network])
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        average = [weight.detach().clone() for weight in network.parameters()]
        inputs, drawn = [each.cuda() for each in INPUTS], []
        for _ in range(4):
            network.train()
            optimizer.zero_grad()
            for part in (1.0, 0.5):  # gradients of two batches
                (part * network(*inputs)).square().sum().backward()
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, list(network.parameters()), 0.5)
            weights = [weight.data for weight in network.parameters()]
            for weight, averaged in zip(network.parameters(), average, strict=True):
                weight.data = averaged
            network.eval()
            drawn += [sampled(network, "cuda"), sampled(network, "cuda", order=2)]
            for weight, trained in zip(network.parameters(), weights, strict=True):
                weight.data = trained
        results[cuda_graphs] = drawn, [weight.detach() for weight in network.parameters()]
    torch.testing.assert_close(results[True], results[False], rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_on_a_gpu_a_call_is_recorded_and_replayed():
    network = randomised(NETWORKS["dit"]()).cuda().eval()
    Execution("network", cuda_graphs=True)([network])
    inputs = [each.cuda() for each in INPUTS]
    with torch.no_grad():
        outputs = [network(*inputs) for _ in range(4)]
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0
    assert torch._inductor.cudagraph_trees.get_manager(0, create_if_none_exists=False).new_graph_id().id > 0
    assert len({output.untyped_storage().data_ptr() for output in outputs}) == 4
