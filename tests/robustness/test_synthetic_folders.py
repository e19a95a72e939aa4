"""Folders of near-boundary images that somebody has changed: one line says what is wrong."""
import numpy as np
import pytest
import torch

from synood.outliers.synthesis import read_synthetic, save_images, write_records

CAT = dict(path='cat/1.jpg', label=0, name='cat')
COW = dict(path='cow/2.jpg', label=1, name='cow')


@pytest.fixture
def batch(tmp_path):
    "A batch of two images and their records."
    folder = tmp_path/'00000'
    save_images(folder/'grad', ['cat/1.jpg', 'cow/2.jpg'], torch.rand(2, 3, 8, 8))
    write_records(folder, [CAT, COW])
    return folder


def refused(batch, why):
    with pytest.raises(ValueError) as error: read_synthetic(batch.parent, 'grad')
    assert why in str(error.value) and '\n' not in str(error.value)


def test_whole(batch):
    images, records = read_synthetic(batch.parent, 'grad')
    assert records == [CAT, COW]
    np.testing.assert_array_equal(images.labels, [0, 1])


@pytest.mark.parametrize('records,first', [([CAT], 'cow/2.jpg.png'), ([COW], 'cat/1.jpg.png'),
                                           ([CAT, CAT, COW], 'cat/1.jpg.png'),
                                           ([CAT, COW, dict(CAT, path='cat/3.jpg')], 'cat/3.jpg.png')])
def test_pictures_and_records_differ(batch, records, first):
    write_records(batch, records)
    refused(batch, f'records.jsonl and the pictures in {batch/"grad"} differ, first in {first!r}')


@pytest.mark.parametrize('record,why', [(dict(CAT, path='/etc/passwd'), 'lies outside its folder'),
                                        (dict(label=0), 'is damaged'),
                                        (dict(CAT, label='0'), 'is damaged (ValueError: label must be a int')])
def test_a_record_that_is_none(batch, record, why):
    write_records(batch, [record])
    refused(batch, why)


def test_a_link(batch):
    (batch/'grad'/'cat'/'1.jpg.png').unlink()
    (batch/'grad'/'cat'/'1.jpg.png').symlink_to(batch/'grad'/'cow'/'2.jpg.png')
    refused(batch, '1.jpg.png is a link')
