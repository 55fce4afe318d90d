"""Tables that depend on sizes alone: made once for each size, and constants of compiled networks."""

import warnings

import torch

from diffsweep.layers import SinusoidalEmbedding
from diffsweep.layers.constants import made_once


def test_a_table_is_made_once_for_each_size():
    sizes = []

    @made_once(2)
    def table(size, device):
        sizes.append(size)
        return torch.arange(size, device=device)

    for size in (3, 4, 3, 5, 3):  # the third one takes the place of the second
        assert table(size, torch.device("cpu")).tolist() == list(range(size))
    table(4, torch.device("cpu"))
    assert sizes == [3, 4, 5, 4]


def test_compiled_code_does_not_make_it_again():
    """So nothing is copied to a GPU in a call, and torch has no cache to warn of."""
    graphs, embedding, times = [], SinusoidalEmbedding(8), torch.tensor([3.0, 500.0])
    expected = embedding(times)
    torch._dynamo.reset()
    compiled = torch.compile(embedding, backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(compiled(times), expected)
    (graph,) = graphs
    called = [str(node.target) for node in graph.graph.nodes if node.op.startswith("call")]
    assert not [name for name in called if "arange" in name or "exp" in name or name == "to"]
    torch._dynamo.reset()
