"""Batches of conditions are sliced, joined, moved and replaced by the null condition part by part."""

from dataclasses import replace

import pytest
import torch

from diffsweep.diffusion import Condition, Frames, Known


def condition(rows=3, start=0):
    ids = torch.arange(start, start + rows)
    tokens = ids[:, None, None] + torch.zeros(rows, 4, 2)
    return Condition(vector=ids, tokens=tokens, token_mask=tokens[..., 0] > 0, image=ids[:, None, None, None].float())


def parts(cond):
    """Return the tensors of a condition by name."""
    found = dict(cond._parts())
    if (known := found.pop("known", None)) is not None:
        found |= {"y": known.y, "mask": known.measurement.mask}
    return found


def same(a, b):
    parts_a, parts_b = parts(a), parts(b)
    return parts_a.keys() == parts_b.keys() and all(torch.equal(parts_a[name], parts_b[name]) for name in parts_a)


@pytest.mark.parametrize("rows", [slice(1, 3), slice(0, 0), torch.tensor([2, 0]), torch.tensor([True, False, True])])
def test_rows_are_taken_from_every_part(rows):
    whole = condition()
    part = whole[rows]
    assert len(part) == len(torch.arange(3)[rows])
    for name, value in whole._parts():
        assert torch.equal(getattr(part, name), value[rows])
    assert part.control is None
    assert part.is_null is None


def test_joined_slices_are_the_whole():
    whole = condition(5)
    assert same(whole[:2].cat(whole[2:4], whole[4:]), whole)


def test_null_keeps_every_part_and_marks_the_rows():
    whole = condition()
    assert whole.null().is_null.tolist() == [True, True, True]
    some = whole.null(torch.tensor([False, True, False]))
    assert some.is_null.tolist() == [False, True, False]
    assert torch.equal(some.vector, whole.vector)
    assert whole.is_null is None  # the condition itself is unchanged


def test_null_rows_stay_null():
    some = condition().null(torch.tensor([True, False, False])).null(torch.tensor([False, False, True]))
    assert some.is_null.tolist() == [True, False, True]


def test_a_condition_and_its_null_are_joined_in_one_batch():
    """Guidance calls the network once on both; rows that are not marked have their condition."""
    whole = condition(2)
    both = whole.cat(whole.null())
    assert both.is_null.tolist() == [False, False, True, True]
    assert both.vector.tolist() == [0, 1, 0, 1]
    assert len(both) == 4
    assert both[2:].is_null.all()
    assert not both[:2].is_null.any()


def test_different_parts_cannot_be_joined():
    with pytest.raises(ValueError, match="different parts"):
        condition().cat(Condition(vector=torch.arange(3)))


def test_every_part_moves_to_a_device():
    assert all(part.device.type == "meta" for _, part in condition().null().to(torch.device("meta"))._parts())


def test_an_empty_condition_has_no_rows():
    assert len(Condition()) == 0


def test_the_negative_condition_goes_along_and_is_left_out_of_a_join():
    negative = condition(start=5)
    cond = replace(condition(), negative=negative)
    assert torch.equal(cond[1:].negative.vector, negative.vector[1:])
    assert cond.to(torch.device("meta")).negative.vector.device.type == "meta"
    assert cond.opposite() is negative
    joined = cond.cat(cond.opposite())
    assert joined.negative is None
    assert torch.equal(joined.vector, torch.cat([cond.vector, negative.vector]))
    assert condition().opposite().is_null.all()


def of_clips(rows=3, frames=4):
    ids = torch.arange(rows * frames).reshape(rows, frames)
    independent = ids % frames >= frames - 1
    known = ids[:, None, :, None, None].float().expand(-1, 2, -1, 5, 5)
    return Condition(vector=ids, independent=independent, known=Known(Frames(ids % 2 == 0), known))


def test_parts_of_clips_are_sliced_and_joined():
    whole = of_clips()
    assert same(whole[:1].cat(whole[1:]), whole)
    part = whole[torch.tensor([2, 0])]
    for name in ("vector", "independent", "y", "mask"):
        assert torch.equal(parts(part)[name], parts(whole)[name][[2, 0]])
    both = whole.cat(whole.opposite())
    assert both.is_null.tolist() == [False] * 3 + [True] * 3
    assert torch.equal(both.independent, whole.independent.repeat(2, 1))
    assert torch.equal(both.known[3:].y, whole.known.y)
    assert parts(whole.to(torch.device("meta")))["mask"].device.type == "meta"


def test_the_negative_condition_is_of_the_same_frames():
    """It takes its frames from the condition that it is joined with, although it was made without any."""
    negative = Condition(vector=torch.full((3, 4), 9))
    cond = replace(of_clips(), negative=negative)
    joined = cond.cat(cond.opposite())
    assert torch.equal(joined.independent, cond.independent.repeat(2, 1))
    assert torch.equal(parts(joined)["mask"][3:], parts(cond)["mask"])
    assert (joined.vector[3:] == 9).all()


def test_each_frame_becomes_a_row():
    """Each row has the value of its frame; a value of the whole clip is repeated in each row."""
    tokens, features = torch.randn(2, 5, 6), torch.randn(2, 3)
    image = torch.randn(2, 1, 3, 4, 4)
    is_null = torch.tensor([False, True])
    ids = torch.arange(6).reshape(2, 3)
    rows = Condition(vector=ids, tokens=tokens, image=image, is_null=is_null, independent=ids > 3).of_frames(3)
    assert rows.vector.tolist() == [0, 1, 2, 3, 4, 5]
    assert rows.is_null.tolist() == [False] * 3 + [True] * 3
    assert rows.independent is None
    assert len(rows) == 6
    for clip in range(2):
        for frame in range(3):
            assert torch.equal(rows.tokens[3 * clip + frame], tokens[clip])
            assert torch.equal(rows.image[3 * clip + frame], image[clip, :, frame])
    rows = Condition(vector=features, image=image[:, :, 0]).of_frames(
        3
    )  # features are of the clip, whatever their number
    assert torch.equal(rows.vector, features.repeat_interleave(3, dim=0))
    assert torch.equal(rows.image[4], image[1, :, 0])
    assert Condition(vector=torch.tensor([7, 2])).of_frames(3).vector.tolist() == [7, 7, 7, 2, 2, 2]
