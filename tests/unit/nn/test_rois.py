"""Regions of interest, with numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from facscale.nn.rois import (
    CENTRES,
    crop_rois,
    fill_missing,
    find_covered_aus,
    locate_centres,
    mask_random_au,
    mask_rois,
    paste_patches,
)


def marks(**points):
    landmarks = torch.zeros(1, 68, 2)
    for number, place in points.items():
        landmarks[0, int(number[1:])] = torch.tensor(place)
    return landmarks


def test_centres_are_landmarks_moved_by_the_ruler():
    landmarks = marks(
        p39=(40.0, 50.0), p42=(60.0, 58.0), p21=(35.0, 30.0), p22=(65.0, 32.0), p41=(30.0, 52.0), p46=(70.0, 54.0)
    )
    result = locate_centres(landmarks, (1, 6))[0]
    # The ruler is 60 - 40 = 20, whatever the eyes' heights. AU1: half of it upwards; AU6: all of it downwards.
    assert result[0].tolist() == [[35.0, 20.0], [65.0, 22.0]]
    assert result[1].tolist() == [[30.0, 72.0], [70.0, 74.0]]


def test_every_au_of_the_protocols_has_a_centre_on_an_upright_face():
    landmarks = fill_missing(torch.full((1, 68, 2), torch.nan), size=100)
    result = locate_centres(landmarks, tuple(CENTRES))
    assert result.isfinite().all()
    assert ((result > 10) & (result < 90)).all()
    left, right = result[0, :, 0, 0], result[0, :, 1, 0]
    central = torch.tensor([au in {23, 24, 25} for au in CENTRES])  # above one another, not beside
    assert (left[~central] < right[~central] + 5).logical_or(left[~central] > right[~central]).all()
    with pytest.raises(ValueError, match="AU 43 has no region"):
        locate_centres(landmarks, (43,))


def test_a_square_of_whole_pixels_is_what_slicing_gives():
    maps = torch.rand(2, 3, 16, 16)
    # A fourth of the image is 4 of 16 cells; about the point between cells 5 and 6 (of 16 pixels) lie cells 4..7.
    places = torch.tensor([[[5.5, 7.5]], [[9.5, 3.5]]])
    result = crop_rois(maps, places, size=16, cells=4)
    torch.testing.assert_close(result[0, 0], maps[0, :, 6:10, 4:8])
    torch.testing.assert_close(result[1, 0], maps[1, :, 2:6, 8:12])


def test_maps_of_another_scale_are_cropped_at_the_same_position():
    image = torch.rand(1, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)  # blocks of 8 pixels
    maps = torch.nn.functional.avg_pool2d(image, 8)
    result = crop_rois(maps, torch.tensor([[[11.5, 19.5]]]), size=32, cells=1)  # the middle of block (1, 2)
    assert result.flatten().tolist() == pytest.approx([maps[0, 0, 2, 1].item()])


def test_masked_squares_are_white_and_nothing_else_is():
    images = torch.zeros(2, 3, 16, 16)
    places = torch.tensor([[[4.0, 8.0], [12.0, 8.0]], [[torch.nan] * 2] * 2])
    result = mask_rois(images, places)
    assert (result[0] == 1).sum() == 3 * 2 * 25  # 2 pixels to each side of the centre: 5 x 5
    assert (result[0, :, 6:11, 2:7] == 1).all()
    assert (result[1] == 0).all()


def test_an_au_is_covered_when_one_of_its_centres_is():
    places = torch.tensor([[[[4.0, 8.0], [12.0, 8.0]], [[5.9, 9.0], [30.0, 30.0]], [[9.0, 1.0], [9.0, 15.0]]]])
    hidden = torch.tensor([[[4.0, 8.0], [12.0, 8.0]]])
    assert find_covered_aus(places, hidden, size=16).tolist() == [[True, True, False]]


def test_cropped_patches_are_pasted_where_they_were():
    images = torch.rand(2, 3, 16, 16)
    places = torch.tensor([[[5.5, 7.5], [9.5, 3.5]], [[13.5, 1.5], [6.5, 6.5]]])
    patches = crop_rois(images, places, size=16, cells=4)
    torch.testing.assert_close(paste_patches(images, patches, places), images)
    inside = paste_patches(images, torch.zeros(2, 1, 3, 4, 4), torch.tensor([[[15.0, 0.0]], [[0.0, 15.0]]]))
    assert (inside[0, :, :4, 12:] == 0).all()
    assert (inside[1, :, 12:, :4] == 0).all()
    assert (inside == 0).sum() == 2 * 3 * 16


def test_one_au_is_masked_in_a_share_of_the_faces():
    images, places = torch.zeros(10, 3, 16, 16), torch.rand(10, 4, 2, 2) * 8 + 4
    result = mask_random_au(images, places, share=0.3)
    assert len(result.rows) == 3
    assert result.rows.tolist() == sorted(set(result.rows.tolist()))
    assert (result.images.flatten(1).amax(1).nonzero()[:, 0] == result.rows).all()
    assert torch.equal(result.images[result.rows], mask_rois(images[result.rows], places[result.rows, result.columns]))
    assert result.covered.any(1).nonzero()[:, 0].tolist() == result.rows.tolist()
    assert result.covered[result.rows, result.columns].all()
    assert len(mask_random_au(images, places, share=0.0).rows) == 1
