"""Class names that nobody can use, and saved detectors that are damaged: each is refused in one line that says why."""
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load, save

from synood.data.images import ImageSet
from synood.detector import OODDetector
from synood.detector.explanation import Neighbours
from synood.detector.fitting import user_images
from synood.detector.labels import check_names
from synood.detector.storage import FORMAT, detector_files
from synood.scores.method import text_adapters

CLASSES = 'cat', 'house', 'tree'
NAMES = [('cat', 'a list of class names is needed'), (None, 'a list of class names is needed'), ([], 'must be given'),
         (['cat', ' '], 'must not be empty'), ([3], '3 is a int'), (['cat', 'cat '], "class names repeat: ['cat']"),
         (['a\nb'], "holds '\\n'"), (['x'*201], 'has 201 characters'), (['cat', 'c\u200bat'], "holds '\\u200b'"),
         (['cat', 'c\u200dat'], "class names repeat: ['cat']"), (['cat', 'c&zwj;at'], "class names repeat: ['cat']"),
         (['cat', 'cat\ufe0f'], "repeat: ['cat']"), (['c&shy;at'], "holds '\\xad'"), (['c\u3164at'], "holds '\\u3164'"),
         (['n02123045'], 'holds an id of WordNet'), (['a_N02123045'], 'holds an id of WordNet')]


def refused(call, message):
    "The call ends in one line that holds the message."
    with pytest.raises((ValueError, FileNotFoundError)) as error: call()
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize('names, message', NAMES)
def test_names(names, message): refused(lambda: check_names(names), message)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "A detector with a threshold and two neighbours, on the disk."
    place = tmp_path_factory.mktemp('detectors')
    for name in ('a.png', 'b.png'): Image.new('RGB', (32, 32)).save(place/name)
    plain = OODDetector.from_names(CLASSES, 'mini')
    near = Neighbours(plain.negatives[:2], ImageSet(place, ('a.png', 'b.png'), np.array([-1, -1])),
                      ('one', 'two'), plain.negative_names[:2])
    replace(plain, threshold=.5, tpr=.95, groups=1, neighbours=near).save(place/'mine')
    return place/'mine'


@pytest.fixture
def folder(saved, tmp_path): return shutil.copytree(saved, tmp_path/'mine')


CHANGES = [(f'"format": {FORMAT}', '"format": 3', f'not a detector of format {FORMAT}'),
           ('"tpr"', '"rpt"', 'tpr missing'),
           ('"cat",', '', 'label counts do not match'),
           ('"threshold": 0.5', '"threshold": "low"', "threshold must be a number or null, not 'low'"),
           ('"embedded:clip"', '"../clip"', 'clip must be'), ('"cat"', '"HOUSE"', 'CLIP reads the class names'),
           ('synthetic/0000.jpg', 'synthetic/0009.jpg', 'synthetic/0000.jpg is not among its files'),
           ('"groups": 1', '"groups": 500', 'cannot form 500 groups'),
           ('"threshold": 0.5', '"threshold": 0.4', 'detector.json is not what was saved')]


@pytest.mark.parametrize('old, new, message', CHANGES)
def test_entries(old, new, message, folder):
    whole = (folder/'detector.json').read_text()
    assert old in whole
    (folder/'detector.json').write_text(whole.replace(old, new, 1))
    refused(lambda: OODDetector.load(folder), message)


def test_files_cut_off_or_missing(folder):
    names = 'detector.json', 'synthetic/0001.jpg', 'detector.safetensors'
    files = {name: (folder/name).read_bytes() for name in names}
    assert set(json.loads(files['detector.json'])['files']) == {'detector.safetensors', 'synthetic/0000.jpg',
                                                                'synthetic/0001.jpg'}
    for name, content, message in (('detector.json', files['detector.json'][:50], 'is damaged'),
                                   ('synthetic/0001.jpg', b'', 'synthetic/0001.jpg is not the file that was saved'),
                                   ('detector.safetensors', b'PK\x03\x04', 'cannot be read')):
        (folder/name).write_bytes(content)
        refused(lambda: OODDetector.load(folder), message)
        (folder/name).write_bytes(files[name])
    assert OODDetector.load(folder).threshold == .5
    refused(lambda: OODDetector.load(folder.parent), 'detector.json is missing')


@pytest.mark.parametrize('change, message', [
    (lambda a: dict(text=2*a['text']), 'not of unit length'),
    (lambda a: dict(neighbours=a['neighbours'][:1]), 'do not match their features'),
    (lambda a: dict(negatives=a['negatives']*np.float32('nan')), 'negatives holds values that are not finite'),
    (lambda a: dict(tuned=np.zeros(1)), 'tuned is no list of int64')])
def test_arrays(change, message, folder):
    arrays = load((folder/'detector.safetensors').read_bytes())
    (folder/'detector.safetensors').write_bytes(save(arrays | change(arrays)))
    refused(lambda: OODDetector.load(folder), message)


class Backwards(torch.nn.Module):
    "A learner that turns every text feature around."
    name, settings = 'backwards', {}

    def cosines(self, text, negatives, images): return -images @ torch.cat([text, negatives]).T


@pytest.mark.parametrize('title, message', [('"name": "forwards"', 'its learner cannot be made'),
                                            ('"title": "backwards"', 'learner must be null or the settings')])
def test_learners(title, message, saved, tmp_path, monkeypatch):
    monkeypatch.setitem(text_adapters, 'backwards', Backwards)
    replace(OODDetector.load(saved), learner=Backwards()).save(tmp_path/'turned')
    assert OODDetector.load(tmp_path/'turned').learner.name == 'backwards'
    where = tmp_path/'turned'/'detector.json'
    where.write_text(where.read_text().replace('"name": "backwards"', title))
    refused(lambda: OODDetector.load(tmp_path/'turned'), message)


@pytest.mark.parametrize('name', ['clip/deed.py', 'conftest.py', 'clip/.hidden.json', 'synthetic.jpg', 'clip/model.bin',
                                  '.hidden'])
def test_files_that_are_no_part_of_it(name, folder):
    (folder/'clip').mkdir()
    (folder/name).write_text('')
    refused(lambda: detector_files(folder), f"holds '{name}', which is no part of a detector")


def test_links_into_the_hubs_store_alone(tmp_path):
    folder = tmp_path/'snapshots'/'c0ffee'
    for part in (folder/'clip', tmp_path/'blobs'): part.mkdir(parents=True)
    for name in ('detector.json', 'README.md', 'clip/open_clip_config.json'): (folder/name).write_text('{}')
    assert sorted(detector_files(folder)) == ['clip/open_clip_config.json', 'detector.json']
    (tmp_path/'blobs'/'abc').write_text('{}')
    (folder/'detector.safetensors').symlink_to('../../blobs/abc')
    assert len(detector_files(folder)) == 3
    (tmp_path/'secret.json').write_text('{}')
    (folder/'clip'/'a.json').symlink_to(tmp_path/'secret.json')
    refused(lambda: detector_files(folder), "holds 'clip/a.json', which is a link")


def test_folders_spelled_in_another_way_of_unicode(tmp_path):
    names = check_names(f'cafe\u0301 {name}' for name in CLASSES)
    for name in CLASSES:
        (tmp_path/f'cafe\u0301 {name}').mkdir()
        Image.new('RGB', (8, 8)).save(tmp_path/f'cafe\u0301 {name}'/'0.png')
    assert user_images(tmp_path, names).classes == names
