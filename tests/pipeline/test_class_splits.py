"""Experiments on Caltech-101's divisions: a run seed meets classes of its own, and grey scenes a grey counterpart."""
import shutil

import numpy as np
import pytest
from PIL import Image

from synood.app.doctor import inspect_data
from synood.core.scales import get_scale
from synood.data.images import protocols, split_scale
from synood.evaluation.benchmark import experiment, load_benchmark
from synood.methods.oodd import OODD
from synood.outliers.controls import ControlledSynOOD
from synood.outliers.finetuning import SynOOD
from synood.outliers.synthesis import synthetic_images
from synood.scores.method import MCM, NegLabel

CLASSES = 'ant', 'camera', 'Faces', 'Faces_easy', 'pizza'
OTHERS = {'imagenet1k/n02219486': 2, 'imagenet1k/n03291819': 3, 'dtd/banded': 2, 'scenes_grey/bedroom': 2,
          'caltech101/background': 2}
OF_CHOICES = 'dtd/banded/banded_0002.jpg', 'scenes_grey/bedroom/image_0001.jpg'


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    "Pictures of noise in the folders of the real sets: three of every class to train on, two to test on."
    root, rng = tmp_path_factory.mktemp('photographs'), np.random.default_rng(0)
    folders = {f'caltech101/{part}/{name}': n for part, n in (('train', 3), ('test', 2)) for name in CLASSES}
    for folder, count in {**folders, **OTHERS}.items():
        (root/folder).mkdir(parents=True)
        for file in [f'{folder}/{k}.jpg' for k in range(count)] + [seen for seen in OF_CHOICES if folder in seen]:
            Image.fromarray(rng.integers(0, 255, (64, 80, 3), np.uint8)).save(root/file)
    return root


@pytest.fixture(scope='module')
def scale(photographs): return get_scale('photos').replace(data=str(photographs), n_groups=1)


@pytest.fixture(scope='module')
def rows(scale, tmp_path_factory):
    return experiment('splits', [MCM(), NegLabel(), OODD()], scale, (0, 1), tmp_path_factory.mktemp('runs'))


def test_every_seed_has_its_division(rows):
    assert set(zip(rows.seed, rows.protocol)) == {(0, 'caltech101-0'), (1, 'caltech101-1')}
    assert set(rows.dataset) == {'unknown', 'ImageNet', 'Textures', 'Scenes', 'Background'}
    assert dict(zip(rows.dataset, rows.group))['unknown'] == 'near'
    assert set(rows.n_id) == {4} and dict(zip(rows.dataset, rows.n_ood))['ImageNet'] == 3  # its ants are no ants here
    assert dict(zip(rows.dataset, rows.n_ood))['Textures'] == 2  # without the one that words were chosen on
    hashes = rows[rows.method == 'MCM'].set_index(['dataset', 'seed']).list_hash
    assert hashes['unknown', 0] != hashes['unknown', 1] and hashes['Textures', 0] == hashes['Textures', 1]


def test_a_folder_without_the_pictures_of_choices_is_named(photographs, tmp_path):
    shutil.copytree(photographs, tmp_path/'data')
    for file in OF_CHOICES: (tmp_path/'data'/file).unlink()
    with pytest.warns(UserWarning, match='Scenes: settings were chosen on 300 pictures of this set'):
        sets = protocols['caltech101-0'].load(tmp_path/'data')
    assert len(sets['Textures']) == len(sets['Scenes']) == 2


def test_scenes_are_compared_with_grey_photographs(scale, tmp_path):
    bench = load_benchmark(split_scale(scale, 0), tmp_path)
    grey = bench.features(bench.id_beside('Scenes'), MCM.needs)['clip', 'image']
    coloured = bench.features(bench.id_beside('Textures'), MCM.needs)['clip', 'image']
    assert grey.shape == coloured.shape and not np.allclose(grey, coloured)
    assert bench.sets['id beside Scenes'].labels.tolist() == bench.sets['id'].labels.tolist()


def test_the_accuracy_beside_scenes_is_of_grey_photographs(rows, scale, tmp_path):
    "Rows say how often the ID images they were made with were right."
    bench = load_benchmark(split_scale(scale, 0), tmp_path)
    of = rows[(rows.seed == 0) & (rows.method == 'MCM')].set_index('dataset').id_acc
    assert of['Textures'] == of['unknown'] == of['Background']
    assert len(bench.draw('id beside Scenes', 0)) == len(bench.draw('id', 0))


def test_choices_look_at_no_test_picture(scale, photographs, tmp_path):
    bench = load_benchmark(split_scale(scale.replace(protocol='caltech101-dev'), 0), tmp_path)
    assert set(bench.sets) == {'train', 'id', 'unknown'}
    assert all('train' in str(path.relative_to(photographs)) for images in bench.sets.values() for path in images.paths)
    assert not set(bench.sets['train'].paths) & set(bench.sets['id'].paths)


def test_synood_learns_from_painted_and_from_real_photographs(scale, tmp_path):
    "Every stage on the shipped networks: tags, the linear head that steers, the painter, the controls."
    small = scale.replace(m=2, synthesis=dict(steps=2), finetuning=dict(projection_epochs=1, label_epochs=1))
    cells = [SynOOD(), *(ControlledSynOOD(images=kind) for kind in ('blurred', 'real'))]
    rows = experiment('painted', cells, small, (0,), tmp_path, ablation=True)
    assert rows.groupby('images').dataset.nunique().to_dict() == {'blurred': 5, 'grad': 5, 'real': 5}
    assert rows.groupby('dataset').auroc.nunique().max() > 1  # what is learned from matters
    painted, records = synthetic_images('grad', split_scale(small, 0), 0, tmp_path)
    known = load_benchmark(split_scale(small, 0), tmp_path).sets['train']
    assert len(painted) == 2 and {record['path'] for record in records} <= set(known.files)
    assert all(record['energies'][0] != record['energies'][1] for record in records)  # a step was taken


def test_doctor_counts_the_classes_of_a_division(scale):
    items, sets = inspect_data(scale, pictures=False)
    assert {item.status for item in items} == {'ok'}
    assert items[-1].finding == '2 classes are known in each of 5 divisions' and len(sets['train'].classes) == 2
