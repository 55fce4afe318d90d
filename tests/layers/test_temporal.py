"""Attention, convolutions and rotary positions over the frames of clips."""

import pytest
import torch
from weights import drawn, normal

from diffsweep.layers import (
    RelativeBias,
    TemporalAttention,
    TemporalConvolution,
    clips_of,
    over_space_and_time,
    over_time,
    rotate,
    space_time_rotation,
    t5_bucket,
    temporal_rotation,
)


def test_buckets_are_those_of_t5():
    """The buckets are the distances below 8, then 8 + floor(8 log(d / 8) / log 16) up to 15; later keys add 16."""
    distances = torch.tensor([0, 1, 7, 8, 12, 16, 32, 64, 127, 128, 1000])
    before = [0, 1, 7, 8, 9, 10, 12, 14, 15, 15, 15]
    assert t5_bucket(-distances).tolist() == before
    assert t5_bucket(distances[1:]).tolist() == [bucket + 16 for bucket in before[1:]]


def test_buckets_equal_those_of_transformers():
    transformers = pytest.importorskip("transformers.models.t5.modeling_t5")
    distances = torch.arange(-300, 301)
    theirs = transformers.T5Attention._relative_position_bucket(distances)
    assert torch.equal(t5_bucket(distances), theirs)


@pytest.mark.parametrize("kind", ["buckets", "distance"])
def test_the_bias_is_a_function_of_the_distance_alone(kind):
    """Distances beyond those of the training clips have the bias of the largest of these."""
    bias = drawn(RelativeBias(2, kind, num_frames=4))
    table = bias(10)
    assert torch.equal(table[:, 1:, 1:], table[:, :-1, :-1])  # Toeplitz
    assert torch.equal(table[:, 0, 4:], table[:, 0, 3:4].expand(-1, 6))
    assert torch.equal(table[:, 9, :6], table[:, 9, 6:7].expand(-1, 6))
    assert torch.equal(bias(4), table[:, :4, :4])
    assert len(table[0, 0].unique()) == 4
    assert len(table[0].unique()) == 7  # -3 to 3


def test_an_unknown_bias_is_refused():
    with pytest.raises(ValueError, match=r"backbone.position_bias is one of buckets, distance, not rotary"):
        RelativeBias(1, "rotary")


def test_temporal_attention_is_the_written_out_sum_over_frames():
    """One of the clips has frames that are independent images."""
    layer, x = drawn(TemporalAttention(8, heads=2, num_frames=5)), normal(2 * 5, 8, 2, 3)
    independent = torch.tensor([[False, False, False, False, False], [False, False, False, True, True]])
    got = layer(x, clips_of(5, independent)).unflatten(0, (2, 5))
    h = layer.norm(x).unflatten(0, (2, 5))
    q, k, v = (h.permute(0, 1, 3, 4, 2) @ layer.to_qkv.weight.T + layer.to_qkv.bias).chunk(3, dim=-1)
    expected, bias = x.unflatten(0, (2, 5)).clone(), layer.bias(5)
    for b in range(2):
        for i in range(5):
            attended = [j for j in range(5) if j == i or not (independent[b, i] or independent[b, j])]
            out = []
            for n in range(2):
                part = slice(4 * n, 4 * n + 4)
                logits = torch.stack([(q[b, i] * k[b, j])[..., part].sum(-1) / 2 + bias[n, i, j] for j in attended])
                weights = logits.softmax(0)
                out.append(sum(weights[m][..., None] * v[b, j][..., part] for m, j in enumerate(attended)))
            change = torch.cat(out, dim=-1) @ layer.to_out.weight.T + layer.to_out.bias
            expected[b, i] += change.permute(2, 0, 1)
    torch.testing.assert_close(got, expected)


def test_temporal_convolution_equals_conv3d():
    """It equals a 3 x 1 x 1 convolution of the clip as a volume, of which independent images are no part."""
    layer, x = drawn(TemporalConvolution(8)), normal(2 * 5, 8, 2, 3)
    volume = torch.nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0)).double()
    volume.load_state_dict(
        {
            "weight": layer.mix.weight.detach().unflatten(1, (3, 8))[..., 0, 0].movedim(1, 2)[..., None, None],
            "bias": layer.mix.bias,
        }
    )

    def expected(rows):
        h = torch.nn.functional.silu(layer.norm(rows))
        return rows + volume(h.movedim(0, 1)[None])[0].movedim(0, 1)

    torch.testing.assert_close(layer(x, clips_of(5)), torch.cat([expected(x[:5]), expected(x[5:])]))
    independent = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    alone = [expected(x[:5]), expected(x[5:8]), expected(x[8:9]), expected(x[9:])]
    torch.testing.assert_close(layer(x, clips_of(5, independent)), torch.cat(alone))


def test_rotary_scores_depend_on_distances_only():
    q, k = normal(1, 1, 1, 8).expand(1, 1, 6, 8), normal(1, 1, 1, 8).expand(1, 1, 6, 8)
    rotation = temporal_rotation(6, 8, q.device, q.dtype)
    logits = (rotate(q, rotation) @ rotate(k, rotation).mT)[0, 0]
    torch.testing.assert_close(logits[1:, 1:], logits[:-1, :-1])
    assert (logits[0, 1:] - logits[0, :-1]).abs().min() > 1e-3


def test_rotations_encode_space_and_time_in_halves_of_the_channels():
    """Half of the channels of all tokens are rotated by time alone, the other half by space alone."""
    frames, grid, extras = 3, (2, 2), 1
    cos, sin = space_time_rotation(frames, grid, 16, extras, True, torch.device("cpu"), torch.float64)
    in_time, _ = temporal_rotation(frames, 8, torch.device("cpu"), torch.float64)
    assert cos.shape == sin.shape == (3 * 5, 8)
    torch.testing.assert_close(cos[:, :4].unflatten(0, (3, 5)), in_time[:, None].expand(3, 5, 4))
    space = cos[:, 4:].unflatten(0, (3, 5))
    assert torch.equal(space, space[:1].expand_as(space))
    assert (space[0, :2] == 1).all()  # a token without a position, and the patch in the corner


def test_scattering_inverts_gathering():
    """``scatter`` inverts ``gather``, which makes tokens neighbours that attend to each other."""
    x = normal(2 * 3, 4, 5, 8)  # of clips of 3 frames: 4 heads, 5 tokens
    clips = clips_of(3, torch.tensor([[False, False, True]]).expand(2, 3))
    time, everything = over_time(clips), over_space_and_time(clips, 5)
    assert torch.equal(time.scatter(time.gather(x)), x)
    assert torch.equal(everything.scatter(everything.gather(x)), x)
    assert torch.equal(time.gather(x)[1, 4, 2], x[3:, 2, 4])
    assert torch.equal(everything.gather(x)[1, 2], x[3:, 2].flatten(0, 1))
    allowed = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    assert torch.equal(everything.mask[0, 0], torch.kron(allowed, torch.ones(5, 5, dtype=torch.bool)))
