"""Compiled networks: the numbers, the gradients and the names of those that are not, and what is not compiled."""

import contextlib
import copy
import subprocess
import sys
from unittest import mock

import pytest
import torch
from compiling import INPUTS, NETWORKS, PARTS, gradients, randomised
from torch import nn

from diffsweep.backbones import DiT, Execution, UViT
from diffsweep.backbones.execution import USUAL
from diffsweep.layers.injection import edited

pytestmark = pytest.mark.usefixtures("nothing_compiled")
COMPILED = [
    pytest.param("dit", "blocks", "aot_eager"),
    *(
        pytest.param(name, "network", backend, marks=pytest.mark.slow)
        for name in NETWORKS
        for backend in ("aot_eager", "inductor")
    ),
    *(pytest.param(name, "blocks", "aot_eager", marks=pytest.mark.slow) for name in ("uvit", "checkpointing")),
]


@pytest.mark.parametrize(("name", "regions", "backend"), COMPILED)
def test_outputs_gradients_and_names_are_those_of_the_network(name, regions, backend):
    torch.manual_seed(0)
    network = randomised(NETWORKS[name]())
    plain, names = copy.deepcopy(network), list(network.state_dict())
    Execution(regions, backend)([network])
    (output, own), (expected, wanted) = gradients(network), gradients(plain)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own, wanted, rtol=1e-3, atol=1e-4)
    assert list(network.state_dict()) == names
    with torch.no_grad():  # other weights under the same names, as when averaged ones are put in their place
        for parameter in network.parameters():
            parameter.data = 2 * parameter.data
    assert not torch.allclose(network(*INPUTS), output)


def test_weights_with_the_channels_last_are_the_same_weights():
    """Numbers differ by rounding, checkpoints do not, and copies and averages keep the order in memory."""
    clips = torch.randn(2, 1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    for network, inputs in ((NETWORKS["unet"](), INPUTS), (torch.nn.Conv3d(1, 4, 3, padding=1), (clips,))):
        plain = copy.deepcopy(randomised(network))
        Execution(channels_last=True)([network])
        convolutions = [weight for weight in network.parameters() if weight.ndim > 3]
        order = torch.channels_last if convolutions[0].ndim == 4 else torch.channels_last_3d
        assert all(weight.is_contiguous(memory_format=order) for weight in convolutions)
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in plain.state_dict().items())
        assert list(network.state_dict()) == list(plain.state_dict())
        output, expected = network(*inputs), plain(*inputs)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
        for each, out in ((network, output), (plain, expected)):
            out.square().sum().backward()
            each.found = [weight.grad for weight in each.parameters()]
        torch.testing.assert_close(network.found, plain.found, rtol=1e-3, atol=1e-4)
        again = copy.deepcopy(plain)
        again.load_state_dict(network.state_dict())
        assert all(torch.equal(*pair) for pair in zip(again.parameters(), plain.parameters(), strict=True))


def test_the_products_of_a_process_are_as_before_a_command():
    assert torch.get_float32_matmul_precision() == "highest"
    with contextlib.suppress(RuntimeError), Execution(matmul_precision="high").products():
        assert torch.get_float32_matmul_precision() == "high"
        with Execution().products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
        raise RuntimeError
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(ValueError, match=r"execution\.matmul_precision.*highest, high, medium"):
        Execution(matmul_precision="tf32")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "dit", "uvit"])
def test_a_network_is_one_graph(name):
    found = torch._dynamo.explain(NETWORKS[name]())(*INPUTS)
    assert (found.graph_count, found.graph_break_count) == (1, 0)
    made = [str(node.target) for graph in found.graphs for node in graph.graph.nodes if "arange" in str(node.target)]
    assert not made  # tables are constants


def test_equal_blocks_are_compiled_once(compilers):
    """The last blocks of a U-ViT have a further input, so they are a second kind."""
    graphs = []
    name = compilers("counting", lambda graph, inputs: graphs.append(graph) or graph.forward)
    for depth, network in ((4, DiT(1, 1, 8, depth=4, **PARTS)), (5, UViT(1, 1, 8, depth=5, **PARTS))):
        assert len(network.equal_blocks()) == depth
        Execution("blocks", name)([network.eval()])
        with torch.no_grad():
            network(*INPUTS)
            network(*INPUTS)
    assert len(graphs) == 3


class Two(nn.Module):
    """A network of two layers and dropout, which takes little time to compile."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.dropout = nn.Linear(3, 4), nn.Linear(4, 3), nn.Dropout(0.5)

    def forward(self, x):
        return self.second(self.dropout(self.first(x).sin()))


X = torch.linspace(-1, 1, 6).reshape(2, 3)


def trained(network):
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    torch.manual_seed(1)
    for x in (X, X[:1], X, X):  # two batch sizes
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()
    return [parameter.detach() for parameter in network.parameters()]


def test_a_compiler_that_fails_leaves_the_network_as_it_is_with_one_warning(compilers, capsys):
    def broken(graph, inputs):
        raise RuntimeError("no compiler\nis here")

    network = Two()
    Execution("network", compilers("broken", broken))([network])
    torch.testing.assert_close(trained(network), trained(Two()), rtol=0, atol=0)
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 1
    assert warned[0].startswith("warning: execution.backend=broken cannot compile here (no compiler is here);")


@contextlib.contextmanager
def unable():
    """Whatever Dynamo does with a frame fails, as by a mistake in it, before any compiler is called."""

    def fail(*_, **__):
        raise TypeError("a mistake\nof Dynamo")

    with mock.patch("torch._dynamo.symbolic_convert.InstructionTranslator.run", fail):
        yield


def test_a_failure_before_the_compiler_leaves_the_network_as_it_is_with_one_warning(capsys):
    network, other = Two(), Two()
    Execution("network", "aot_eager")([network, other])
    with unable():
        torch.testing.assert_close(trained(network), trained(Two()), rtol=0, atol=0)
    torch.testing.assert_close(trained(other), trained(Two()), rtol=0, atol=0)
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 1
    assert "cannot compile here (TypeError: a mistake of Dynamo" in warned[0]


class Broken(Two):
    """A network with an operation that no graph can have, before and after which it is compiled."""

    def forward(self, x):
        h = self.first(x).sin()
        torch._dynamo.graph_break()
        return self.second(self.dropout(h))


def test_what_no_graph_can_have_is_computed_between_two_graphs(compilers, capsys):
    graphs, network, plain = [], Broken(), Broken()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(plain, backend="eager", fullgraph=True)(X)
    Execution("network", compilers("counting", lambda graph, inputs: graphs.append(graph) or graph.forward))([network])
    torch.testing.assert_close(trained(network), trained(plain), rtol=0, atol=0)
    assert len(graphs) == 4  # of two batch sizes
    assert not capsys.readouterr().err


def test_an_error_of_the_network_itself_is_its_own():
    network = Two()
    Execution("network", "eager")([network])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as raised:
        network(torch.ones(2, 7))
    assert type(raised.value) is RuntimeError


def test_no_setting_of_torch_changes():
    """Settings of the compilers are those of their process; another package may rely on them."""
    from torch._dynamo import config as of_dynamo
    from torch._functorch import config as of_gradients

    before = of_dynamo.get_config_copy(), of_gradients.get_config_copy()
    network = Two()
    Execution("network", "aot_eager")([network])
    trained(network)
    assert before == (of_dynamo.get_config_copy(), of_gradients.get_config_copy())


def test_more_networks_than_torch_compiles_by_itself_are_compiled_in_one_process(compilers):
    """As by the jobs of a sweep; torch compiles a class's method for eight kinds of calls if nothing is set."""
    graphs = []
    name = compilers("counting", lambda graph, inputs: graphs.append(graph) or graph.forward)
    for width in range(1, 6):
        network = Two().eval()
        network.first, network.second = nn.Linear(3, width), nn.Linear(width, 3)
        Execution("network", name)([network])
        for x in (X, X[:1], X, X[:1]):  # a last, smaller batch is one kind more, however often it comes
            network(x)
    assert len(graphs) == 10


def test_other_weights_can_be_put_in_for_one_call():
    """So consistency models compute their targets, with averaged weights."""
    network = Two().eval()
    Execution("network", "eager")([network])
    before = network(X)
    doubled = {name: 2 * weight.detach() for name, weight in network.named_parameters()}
    with torch.no_grad():
        found = torch.func.functional_call(network, doubled, (X,))
        torch.testing.assert_close(found, torch.func.functional_call(Two().eval(), doubled, (X,)))
    torch.testing.assert_close(network(X), before)


def test_a_copy_is_not_compiled(compilers):
    graphs = []
    network = Two()
    Execution("network", compilers("counting", lambda graph, inputs: graphs.append(graph) or graph.forward))([network])
    copy.deepcopy(network)(X)
    assert not graphs
    network(X)
    assert graphs


def test_features_of_compiled_networks_can_be_edited():
    """The edit is a hook, which code that was compiled before does not have."""
    torch.manual_seed(0)
    network = randomised(DiT(1, 1, 8, depth=2, **PARTS)).eval()
    plain = copy.deepcopy(network)
    Execution("blocks", "eager")([network])
    before = network(*INPUTS)
    for changed in (plain, network):
        with edited([(changed.injectable()[0].features[0], lambda features: features.zero_())]), torch.no_grad():
            changed.edited = changed(*INPUTS)
    torch.testing.assert_close(network.edited, plain.edited)
    assert not torch.allclose(network.edited, before)
    torch.testing.assert_close(network(*INPUTS), before)


@pytest.mark.parametrize("compile", ["none", "network"])
@pytest.mark.parametrize(("backend", "near"), [("inductr", ", did you mean inductor?"), ("nonsense", ";")])
def test_unknown_backends_are_refused_with_the_usual_ones(compile, backend, near):
    with pytest.raises(ValueError, match="no such backend") as error:
        Execution(compile, backend)
    usual = "the usual ones are inductor, aot_eager, eager, cudagraphs"
    assert str(error.value) == f"execution.backend={backend}: torch has no such backend{near} {usual}"


def test_unknown_regions_are_refused():
    with pytest.raises(ValueError, match=r"^execution\.compile is one of "):
        Execution("all")


def test_the_usual_backends_are_those_of_torch():
    assert set(USUAL) < set(torch._dynamo.list_backends(exclude_tags=()))


@pytest.mark.slow  # Python starts again
def test_the_compiler_is_not_imported_for_what_is_not_compiled():
    code = (
        "import sys, diffsweep.backbones as b; b.Execution()([b.DiT(1, 1, 8)]); "
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
