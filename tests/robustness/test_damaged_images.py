"""What is no image, or a damaged one, by hand and one at a time; test_fuzz_images.py damages thousands."""
import io
import os
from types import SimpleNamespace

import fuzzed_images as fuzzed
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from synood.data import images
from synood.data.images import (few_shot_indices, image_note, read_image, to_rgb, select_images, contact_sheet,
                                evenly_spaced, skip_reason)
from synood.data.user_images import array_to_image, tensor_to_image, iter_images

PNG = fuzzed.saved(Image.new('RGB', (64, 64), 'red'), 'PNG')
EXIF = Image.open(io.BytesIO(fuzzed.saved(Image.new('RGB', (6, 4)), 'PNG', exif=fuzzed.exif()))).info['exif']


@pytest.mark.parametrize('content, message', [
    (b'', 'the file is empty'), (b'<html>404 Not Found</html>', "not an image: it starts with b'<html>404 No'"),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n', "not an image: it starts with b'%!PS"),
    (fuzzed.saved(Image.new('1', (1, 65_536)), 'PNG'), 'than 65535 a side'),
    (b'P3 2000 2000 255 9', '2000 x 2000 pixels are more than 1048576 in a PPM file: save it as PNG'),
    (b'P6 2000 2000 100 9', '2000 x 2000 pixels are more than 1048576')])
def test_what_is_refused_by_its_first_bytes(tmp_path, content, message):
    (tmp_path/'a.png').write_bytes(content)
    for source in (tmp_path/'a.png', content):
        with pytest.raises(ValueError) as error: read_image(source)
        assert message in str(error.value) and '\n' not in str(error.value)


def test_a_file_that_is_too_long(monkeypatch):
    monkeypatch.setattr(images, 'MAX_BYTES', 100)
    with pytest.raises(ValueError, match='bytes are more than 100: save it anew'): read_image(PNG)


@pytest.mark.parametrize('library, message', [
    (None, 'a HEIC picture, as phones make them: pip install pillow-heif'), (True, 'a damaged HEIC picture')])
def test_a_heic_picture_that_cannot_be_read(monkeypatch, library, message):
    images._prepare_pillow()
    monkeypatch.setattr(images, 'find_spec', lambda name: library)
    with pytest.raises(ValueError, match=message): read_image(b'\0\0\0\x18ftypheic')


def test_bytes_of_a_png_set_to_zero(tmp_path):
    damaged = bytearray(PNG)
    damaged[20:40] = bytes(20)
    (tmp_path/'broken.png').write_bytes(damaged)
    with pytest.raises(ValueError, match='broken.png: '): read_image(tmp_path/'broken.png')


@pytest.mark.parametrize('path, message', [(os.devnull, 'it is no regular file'), ('.', 'it is a folder'),
                                           ('link.png', 'it is a link that leads to none')])
def test_a_path_that_leads_to_no_file(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    os.symlink('nowhere.png', 'link.png')
    with pytest.raises(FileNotFoundError, match=f'there is no such image file, {message}'): read_image(path)


@pytest.mark.parametrize('size, message', [((0, 9), 'nothing to see'), ((65_536, 1), 'than 65535 a side')])
def test_a_picture_in_memory_of_a_wrong_size(size, message):
    with pytest.raises(ValueError, match=message): to_rgb(Image.new('1', size))


def test_a_second_page_that_is_damaged(tmp_path):
    frames = [Image.new('RGB', (4, 4), colour) for colour in ('green', 'blue')]
    content = fuzzed.saved(frames[0], 'TIFF', save_all=True, append_images=frames[1:])
    (tmp_path/'pages.tif').write_bytes(content[:len(content)//2] + bytes(len(content)//2))
    assert read_image(tmp_path/'pages.tif').getpixel((0, 0)) == (0, 128, 0)
    assert image_note(tmp_path/'pages.tif') == 'damaged after its first frame, which is used'


@pytest.mark.parametrize('end', range(1, len(EXIF) - 6))
def test_an_exif_note_that_was_cut(end):
    note = EXIF[:end]
    orientation = images._orientation(SimpleNamespace(info={'exif': note}))
    assert orientation == (6 if end >= EXIF.index(b'\x01\x12') + 10 else None)


@pytest.mark.parametrize('before, orientation', [('', 6), ('\n', None)])
def test_an_exif_note_as_a_text(before, orientation):
    text = f'{before}exif\nexif\n      30\n{EXIF.hex()}'  # as ImageMagick writes it
    assert images._orientation(SimpleNamespace(info={'Raw profile type exif': text})) == orientation


@pytest.mark.parametrize('content, reason', [
    (b'', 'no images'), (b'BMW', 'no images'), (b'Python', 'no images'), (b'P1 is', 'no images'), (b'P1 1 1 0', ''),
    (b'\0\0\0\x18ftypheic', ''), (PNG, ''), (b'8BPS', 'of a kind that is not read (Photoshop)'),
    (b'\xff\x0a', 'of a kind that is not read (JPEG XL)')])
def test_what_a_file_without_an_ending_is(tmp_path, content, reason):
    (tmp_path/'a').write_bytes(content)
    assert skip_reason(tmp_path/'a', by_content=True) == reason


@pytest.mark.parametrize('names', [
    ('cat', 'cat '), ('cat', 'cat\u00a0'), ('cat', 'ca\u0074\u200a'), ('cat', '&#99;at'), ('cat', '\uff43at'),
    ('A&B', 'A&amp;B'), ('\u00e9cole', 'e\u0301cole')])
def test_class_folders_that_a_network_reads_alike(names):
    with pytest.raises(ValueError) as error: images._check_spelling('zoo', names)
    assert f'zoo: a network reads the class folders {names[0]!a} and {names[1]!a} alike' in str(error.value)


@pytest.mark.parametrize('array, message', [
    (np.zeros((3, 9, 9), np.uint8), 'is one, so put the channels last'), (np.zeros(4), 'shape'),
    (np.zeros((2, 2), int), 'int64: give uint8'), (np.array([[-1., 254]]), '-1 to 254, not from 0 to 1'),
    (np.full((2, 2), np.nan), 'nan to nan'), (np.zeros((2, 2, 3), np.uint16), 'uint16: give uint8'),
    (np.zeros((0, 2)), 'no pixels')])
def test_an_array_that_is_no_picture(array, message):
    with pytest.raises(ValueError, match=message): array_to_image(array)


@pytest.mark.parametrize('tensor', [torch.zeros(3, 2, 2, device='meta'), torch.zeros(3, 2, 2).to_sparse()])
def test_a_tensor_without_pixels(tensor):
    with pytest.raises(ValueError, match='gives no pixels'): tensor_to_image(tensor)


@pytest.mark.parametrize('value, kind', [(None, 'NoneType'), ({}, 'dict'), (7, 'int'), (pd.DataFrame(), 'DataFrame')])
def test_what_is_no_collection_of_images(value, kind):
    with pytest.raises(ValueError, match=f'nothing of the type {kind}'): list(iter_images(value))


@pytest.mark.parametrize('content, message', [(7, 'no bytes'), ('text', "open it with 'rb'")])
def test_an_open_file_that_gives_no_bytes(content, message):
    (_, error), = iter_images([SimpleNamespace(read=lambda size: content)])
    assert message in str(error)


@pytest.mark.parametrize('wrong', [0, -3, 2.5, None, True, np.nan])
def test_a_number_of_images_that_is_none(wrong):
    train = images.ImageSet('nowhere', ('a.png', 'b.png'), np.array([0, 1]), ('ant', 'bee'))
    for work in (lambda: evenly_spaced(10, wrong), lambda: few_shot_indices([1, 1], wrong),
                 lambda: select_images(train, np.array([0, 1]), wrong),
                 lambda: images.complexity_ranking(train, wrong),
                 lambda: contact_sheet([Image.new('L', (2, 2))], columns=wrong)):
        with pytest.raises(ValueError, match=f'must be a whole number from 1 on, not {wrong}'): work()


@pytest.mark.parametrize('zoom', [0, -1, np.nan])
def test_a_zoom_that_is_none(zoom):
    with pytest.raises(ValueError, match='by a number above 0'): contact_sheet([Image.new('L', (2, 2))], zoom=zoom)
