"""Procedural faces: what is asked for is drawn, and nothing else."""

from __future__ import annotations

import pytest
import torch

from datamodules.synthetic.face_parameters import HAIR_COLOURS, HELD_OUT_HAIR_COLOURS, draw_faces
from datamodules.synthetic.faces import face_landmarks, hair_mask, render_faces
from functional.face_regions import box_masks, region_boxes


def faces(count=64, **options):
    return draw_faces(count, torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize(("attribute", "region"), [("smile", "mouth"), ("moustache", "mouth"), ("glasses", "eyes")])
def test_a_counterfactual_differs_in_its_region_only(attribute, region):
    drawn = faces()
    other = drawn.with_attributes({attribute: 1 - getattr(drawn, attribute)})
    difference = (render_faces(drawn, 64) - render_faces(other, 64)).abs().amax(1, keepdim=True)
    mask = box_masks(region_boxes(face_landmarks(drawn, 64), region), 64, 64)
    assert (difference * mask).flatten(1).amax(1).min() > 0.1
    assert (difference * (1 - mask)).sum() < 0.02 * difference.sum()
    again = other.with_attributes({attribute: getattr(drawn, attribute)})
    assert torch.equal(render_faces(again, 64), render_faces(drawn, 64))


def test_attributes_are_independent_and_balanced():
    values = faces(4000).attributes(["smile", "moustache", "glasses"])
    assert (values.mean(0) - torch.tensor([0.5, 0.5, 0.4])).abs().max() < 0.03
    assert (torch.corrcoef(values.T) - torch.eye(3)).abs().max() < 0.05


def test_hair_is_recoloured_where_its_mask_is():
    drawn = faces(16, hair=HELD_OUT_HAIR_COLOURS).with_attributes({"moustache": torch.zeros(16)})
    assert {list(HAIR_COLOURS)[index] for index in drawn.hair.tolist()} <= set(HELD_OUT_HAIR_COLOURS)
    other = drawn.with_hair("green")
    difference = (render_faces(drawn, 48) - render_faces(other, 48)).abs().amax(1, keepdim=True)
    mask = hair_mask(drawn, 48)
    assert difference[mask > 0.9].min() > 0.05
    brows = box_masks(region_boxes(face_landmarks(drawn, 48), "eyes"), 48, 48)
    assert difference[(mask < 1e-3) & (brows == 0)].max() < 0.02
    with pytest.raises(ValueError, match="no hair colour 'mauve'"):
        drawn.with_hair("mauve")


def test_pictures_scale_and_parts_of_a_set_are_its_pictures():
    drawn = faces(8)
    small, large = render_faces(drawn, 32), render_faces(drawn, 128)
    assert (torch.nn.functional.avg_pool2d(large, 4) - small).abs().mean() < 0.02
    assert torch.equal(render_faces(drawn[2:4], 32), small[2:4])
    assert 0 <= small.min() <= small.max() <= 1
    assert torch.equal(face_landmarks(drawn, 128), 4 * face_landmarks(drawn, 32))
    with pytest.raises(ValueError, match="have no"):
        drawn.with_attributes({"beard": torch.zeros(8)})
