"""Boxes of face regions, their masks and crops, and the losses inside them."""

from __future__ import annotations

import math

import pytest
import torch

from functional.critic_augmentation import augment_alike
from functional.face_regions import MEAN_LANDMARKS, box_masks, crop_boxes, jitter_boxes, mask_boxes, region_boxes
from functional.inpainting_losses import composite, hidden, masked_l1, masked_psnr, seam_error, spatial_discount

SQUARE = torch.zeros(1, 1, 12, 12)
SQUARE[..., 2:9, 3:10] = 1


def test_boxes_follow_the_sheet():
    points = torch.tensor([[[30.0, 40.0], [70.0, 40.0], [50.0, 60.0], [35.0, 80.0], [65.0, 80.0]]])
    assert region_boxes(points, "mouth").tolist() == [[24.5, 66.0, 75.5, 102.5]]
    assert region_boxes(points, "eyes").tolist() == [[8.0, 18.0, 92.0, 56.0]]
    assert region_boxes(points, "nose").tolist() == [[32.0, 44.0, 68.0, 72.0]]
    with pytest.raises(ValueError, match="region='ear' is not one of"):
        region_boxes(points, "ear")
    assert region_boxes(MEAN_LANDMARKS[None], "mouth")[0, 3] < 218


def test_masks_and_boxes_are_inverse_and_no_mask_is_empty():
    boxes = torch.tensor([[1.0, 2.0, 5.0, 7.0], [0.0, 0.0, 8.0, 9.0], [3.2, 3.2, 3.4, 3.4]])
    masks = box_masks(boxes, 9, 8)
    assert masks.sum((1, 2, 3)).tolist() == [20, 72, 1]
    assert torch.equal(mask_boxes(masks)[:2], boxes[:2])
    assert mask_boxes(torch.zeros(1, 1, 4, 6)).tolist() == [[0, 0, 6, 4]]


def test_jitter_stays_within_its_bounds():
    boxes = torch.tensor([[10.0, 10.0, 30.0, 20.0]]).repeat(500, 1)
    moved = jitter_boxes(boxes, 4.0, 0.1, torch.Generator().manual_seed(0))
    centre, sides = (moved[:, :2] + moved[:, 2:]) / 2, moved[:, 2:] - moved[:, :2]
    assert 3 < (centre - torch.tensor([20.0, 15.0])).abs().max() <= 4
    assert 0.08 < (sides / torch.tensor([20.0, 10.0]) - 1).abs().max() <= 0.1 + 1e-6


def test_a_crop_of_its_own_size_is_the_slice():
    images = torch.rand(2, 3, 10, 12, generator=torch.Generator().manual_seed(0))
    crops = crop_boxes(images, torch.tensor([[2.0, 3.0, 7.0, 8.0]]).repeat(2, 1), 5)
    torch.testing.assert_close(crops, images[..., 3:8, 2:7])


def test_composites_keep_every_bit_and_hide_every_pixel():
    image, made = torch.rand(1, 3, 12, 12), torch.full((1, 3, 12, 12), torch.nan)
    spoilt = torch.where(SQUARE > 0, torch.nan, image)
    assert torch.equal(hidden(spoilt, SQUARE), hidden(image, SQUARE))
    outside = (SQUARE == 0).expand_as(image)
    assert torch.equal(composite(image, made, SQUARE)[outside], image[outside])
    assert composite(image, made, SQUARE)[~outside].isnan().all()


def test_discount_counts_steps_from_the_border():
    weight = spatial_discount(SQUARE, 0.5)[0, 0]
    assert weight[2, 3:10].tolist() == [0.5] * 7
    assert weight[5, 3:10].tolist() == [0.5, 0.25, 0.125, 0.0625, 0.125, 0.25, 0.5]
    assert weight[0].sum() == 0
    assert torch.equal(spatial_discount(SQUARE, 1.0), SQUARE)
    with pytest.raises(ValueError, match="gamma=0"):
        spatial_discount(SQUARE, 0.0)


def test_measures_look_inside_the_mask_only():
    first = torch.zeros(1, 3, 12, 12)
    second = torch.where(SQUARE > 0, 0.1, 0.9).expand_as(first)
    assert masked_l1(first, second, SQUARE).item() == pytest.approx(0.1)
    assert masked_psnr(first, second, SQUARE).item() == pytest.approx(20)
    assert masked_psnr(first, first, SQUARE).item() == pytest.approx(100)
    assert masked_l1(first, second, torch.zeros_like(SQUARE)).item() == 0
    assert seam_error(second, SQUARE).item() == pytest.approx(0.8)
    assert seam_error(first, torch.zeros_like(SQUARE)).item() == 0
    assert not math.isnan(seam_error(second, torch.ones_like(SQUARE)).item())


def test_augmentation_moves_image_and_mask_alike_and_passes_gradients():
    images = SQUARE.repeat(1, 3, 1, 1).requires_grad_()
    draws = torch.tensor([[1.0, 0.5, 0.5]])  # to the right by a quarter
    moved, mask = augment_alike(images, SQUARE, draws, 0.25)
    torch.testing.assert_close(mask[..., 3:], SQUARE[..., :-3])
    torch.testing.assert_close(moved[:, :1], mask)
    brighter, _ = augment_alike(images, SQUARE, torch.tensor([[0.5, 0.5, 1.0]]), 0.25)
    torch.testing.assert_close(brighter, images + 0.25)
    moved.sum().backward()
    assert images.grad.abs().sum() > 0
