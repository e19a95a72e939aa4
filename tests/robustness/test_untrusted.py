"""Files that come from elsewhere.

A pickle in the place of tensors is never executed, and a list cannot name a file outside its folder."""
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from synood.outliers.context import load_context_model, read_contexts
from synood.detector import OODDetector
from synood.models.cache import cached_arrays
from synood.models.classifier import load_classifier
from synood.models.clip import load_clip
from synood.data.images import read_sets, read_selection
from synood.scores.negatives import read_negatives
from synood.core.files import embedded_model_folder
from synood.core.rows import merge_rows
from synood.outliers.inpainting import load_inpainting
from synood.outliers.synthesis import read_synthetic, save_images
from synood.core.training import TrainState


class Deed:
    "Unpickling it makes a folder."
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self): return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path): return tmp_path/'executed'


@pytest.fixture(params=['of torch', 'bare'])
def malicious(request, mark, tmp_path):
    "Bytes of a pickle that would make the mark: as torch.save writes it, or as it is."
    if request.param == 'bare': return pickle.dumps(Deed(mark))
    torch.save({'state_dict': Deed(mark), 'weight': torch.zeros(2)}, tmp_path/'malicious.pt')
    return (tmp_path/'malicious.pt').read_bytes()


def test_the_pickle_is_malicious(malicious, mark, tmp_path):
    (tmp_path/'it').write_bytes(malicious)
    if zipfile.is_zipfile(tmp_path/'it'): torch.load(tmp_path/'it', weights_only=False)
    else: pickle.loads(malicious)
    assert mark.exists()


def one_line(error): return len(str(error.value)) > 10 and '\n' not in str(error.value).strip()


NETWORKS = [  # what reads it, kind, the malicious file, files taken away, a file that stays under another name
    (load_clip, 'clip', 'open_clip_model.safetensors', '', ''),
    (load_clip, 'clip', 'open_clip_pytorch_model.bin', 'open_clip_model.safetensors', ''),
    (load_clip, 'clip', 'open_clip_pytorch_model.bin', '', 'open_clip_model.safetensors'),
    (load_clip, 'clip', 'open_clip_model.pt', 'open_clip_model.safetensors', ''),
    (load_clip, 'clip', 'below/model.safetensors', 'open_clip_model.safetensors', ''),
    (load_classifier, 'classifier', 'model.safetensors', '', ''),
    (load_classifier, 'classifier', 'pytorch_model.bin', 'model.safetensors', ''),
    (load_classifier, 'classifier', 'pytorch_model.bin', '', 'model.safetensors'),
    (load_inpainting, 'inpainting', 'unet/diffusion_pytorch_model.safetensors', '', ''),
    (load_inpainting, 'inpainting', 'unet/diffusion_pytorch_model.bin', '', 'unet/diffusion_pytorch_model.safetensors'),
    (load_inpainting, 'inpainting', 'text_encoder/pytorch_model.bin', '', 'text_encoder/model.safetensors'),
    (load_context_model, 'lister', 'model.safetensors', '', ''),
    (load_context_model, 'lister', 'pytorch_model.bin', '', 'model.safetensors')]
NETWORK_IDS = [f'{kind}-{place}{"-beside" if renamed else ""}' for _, kind, place, _, renamed in NETWORKS]


@pytest.mark.parametrize('load, kind, place, gone, renamed', NETWORKS, ids=NETWORK_IDS)
def test_no_network_is_read_from_a_pickle(load, kind, place, gone, renamed, malicious, mark, tmp_path):
    folder = tmp_path/kind
    shutil.copytree(embedded_model_folder(kind), folder)
    if gone: (folder/gone).unlink()
    if renamed: (folder/renamed).rename((folder/renamed).with_name('zz.safetensors'))
    (folder/place).parent.mkdir(exist_ok=True)
    (folder/place).write_bytes(malicious)
    with pytest.raises((ValueError, OSError)) as error: load((str(folder),))
    assert one_line(error) and str(tmp_path) in str(error.value) and not mark.exists()


@pytest.mark.parametrize('name', ['detector.safetensors', 'detector.json'])
def test_no_detector_is_read_from_a_pickle(name, malicious, mark, tmp_path):
    OODDetector.from_names(['cat', 'cow'], 'smoke').save(tmp_path/'detector')
    assert OODDetector.load(tmp_path/'detector').names == ('cat', 'cow')
    (tmp_path/'detector'/name).write_bytes(malicious)
    with pytest.raises(ValueError, match=name) as error: OODDetector.load(tmp_path/'detector')
    assert one_line(error) and not mark.exists()


def test_no_feature_is_read_from_a_pickle(malicious, mark, tmp_path):
    def features(): return cached_arrays(tmp_path/'cache', {'of': 'rows'}, 5,
                                         lambda rows: {'row': np.array(rows)[:, None]})
    first = features()
    file, = [p for p in (tmp_path/'cache').iterdir() if p.is_file()]
    file.write_bytes(malicious)
    with pytest.warns(UserWarning, match='is damaged .* and is made again'): again = features()
    assert (again['row'] == first['row']).all() and not mark.exists()


def test_no_checkpoint_and_no_negatives_are_read_from_a_pickle(malicious, mark, tmp_path):
    (tmp_path/'checkpoint.safetensors').write_bytes(malicious)
    model = torch.nn.Linear(2, 2)
    course = TrainState(model, torch.optim.SGD(model.parameters(), .1))
    with pytest.raises(ValueError, match='checkpoint.safetensors is damaged') as error:
        course.restore(tmp_path/'checkpoint.safetensors')
    assert one_line(error)
    (tmp_path/'negatives.safetensors').write_bytes(malicious)
    (tmp_path/'negatives.json').write_text('{}')
    with pytest.raises(Exception, match='header'): read_negatives(tmp_path)
    assert not mark.exists()


OUTSIDE = ['../secret', 'a/../../secret', '/etc/passwd', 'C:\\secret', 'c:/secret', '\\\\host\\share\\secret',
           '..\\secret', 'a\0b', '', '..']


def lines(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(r) + '\n' for r in records))


@pytest.mark.parametrize('name', OUTSIDE)
def test_a_list_names_nothing_outside_its_folder(name, tmp_path):
    record = dict(path=name, label=0, name='cat', items=[], prompt='')
    sets = {'id': dict(root='/data/photos', files=[name], labels=[0], classes=['cat'])}
    (tmp_path/'sets.json').write_text(json.dumps(sets))
    lines(tmp_path/'selection.jsonl', record)
    lines(tmp_path/'made'/'00000'/'records.jsonl', record)
    lines(tmp_path/'made'/'00000'/'contexts.jsonl', record)
    (tmp_path/'smoke'/'rows').mkdir(parents=True)
    (tmp_path/'smoke'/'rows'/'table1.json').write_text(json.dumps(dict(ablation=False, files=[name])))
    pixels = torch.zeros(2, 3, 8, 8)
    for use in (lambda: read_sets(tmp_path),
                lambda: read_selection(tmp_path),
                lambda: read_synthetic(tmp_path/'made', 'grad'),
                lambda: read_contexts(tmp_path/'made'),
                lambda: merge_rows(tmp_path, 'smoke'),
                lambda: save_images(tmp_path/'made', ['fine', name], pixels)):
        with pytest.raises(ValueError, match='lies outside its folder') as error: use()
        assert one_line(error)
    assert not (tmp_path/'made'/'fine.png').exists()  # refused before anything is written


def test_the_users_own_folders_stay_where_they_are(tmp_path):
    (tmp_path/'photos'/'cat').mkdir(parents=True)
    (tmp_path/'run').mkdir()
    files = ['cat/1.jpg', 'cat/..2.jpg', 'cat/a:b.jpg']
    for root in (str(tmp_path/'photos'), '../photos'):
        sets = {'id': dict(root=root, files=files, labels=[0]*3, classes=['cat'])}
        (tmp_path/'run'/'sets.json').write_text(json.dumps(sets))
        assert read_sets(tmp_path/'run')['id'].path(0) == tmp_path/'photos'/'cat'/'1.jpg'


def test_a_synthetic_image_is_no_link(tmp_path):
    folder = tmp_path/'made'
    save_images(folder/'00000'/'grad', ['cat/1.png', 'cat/2.png'], torch.rand(2, 3, 8, 8))
    lines(folder/'00000'/'records.jsonl', *(dict(path=f'cat/{i}.png', label=0, name='cat') for i in (1, 2)))
    (tmp_path/'linked').symlink_to(folder)  # of the whole folder: runs may lie on another disk
    assert len(read_synthetic(tmp_path/'linked', 'grad')[0]) == 2
    (folder/'00000'/'grad'/'cat'/'2.png').unlink()
    (folder/'00000'/'grad'/'cat'/'2.png').symlink_to(Path('/etc/hostname'))
    with pytest.raises(ValueError, match='2.png is a link') as error: read_synthetic(folder, 'grad')
    assert one_line(error)
