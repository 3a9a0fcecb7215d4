"""Colours of masked regions: measured, matched and painted."""

from __future__ import annotations

import torch

from functional.recolouring import face_oval, hair_band, mean_colour, nearest_colour, recolour, region_l1

LUMA = torch.tensor([0.299, 0.587, 0.114])


def pictures():
    draws = torch.Generator().manual_seed(0)
    images = 0.3 + 0.2 * torch.rand(2, 3, 8, 8, generator=draws)
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, :3] = 1
    return images, mask


def test_mean_colour_and_distance_look_inside_the_mask_only():
    images, mask = pictures()
    torch.testing.assert_close(mean_colour(images, mask), images[:, :, :3].mean((2, 3)))
    changed = images.clone()
    changed[:, :, 3:] = 1
    torch.testing.assert_close(mean_colour(changed, mask), mean_colour(images, mask))
    assert region_l1(images, changed, mask).tolist() == [0, 0]
    torch.testing.assert_close(region_l1(images, changed, 1 - mask), (1 - images[:, :, 3:]).mean((1, 2, 3)))
    assert mean_colour(images, 0 * mask).abs().max() == 0


def test_nearest_colour():
    palette = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 1]])
    assert nearest_colour(torch.tensor([[0.9, 0.3, 0.2], [0.1, 0, 0.2], [0.8, 0.9, 0.7]]), palette).tolist() == [
        1,
        0,
        2,
    ]


def test_recolour_paints_the_mean_and_keeps_the_shading():
    images, mask = pictures()
    wanted = torch.tensor([[0.5, 0.1, 0.2], [0.1, 0.4, 0.3]])
    painted = recolour(images, mask, wanted)
    assert torch.equal(painted[:, :, 3:], images[:, :, 3:])
    torch.testing.assert_close(mean_colour(painted, mask), wanted, rtol=1e-4, atol=1e-4)
    before, after = ((x * LUMA[:, None, None]).sum(1)[:, :3] for x in (images, painted))
    ratio = (after / after.mean((1, 2), keepdim=True)) / (before / before.mean((1, 2), keepdim=True))
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=1e-3, atol=1e-3)


def test_face_oval_covers_the_face_and_the_hair_band_lies_above():
    landmarks = torch.tensor([[[12.0, 16.0], [20.0, 16.0], [16.0, 20.0], [13.0, 24.0], [19.0, 24.0]]])
    oval = face_oval(landmarks, 32, 32)[0, 0]
    for x, y in landmarks[0].long():
        assert oval[y, x] > 0.6
    assert oval[0].max() < 0.01
    image = torch.full((1, 3, 32, 32), 0.9)
    image[:, :, 2:16, 4:28] = torch.tensor([0.1, 0.05, 0.0])[:, None, None]
    band = hair_band(image, landmarks)[0, 0]
    assert band[7, 16] > 0.5
    assert band[21:].max() == 0
    assert band[18, 16] < 0.05  # the face itself
    assert band[14, 30] < 0.1  # another colour
