"""`synood doctor` on small trees in each of the nine layouts: whatever is wrong is named, and nothing ends the rest."""
import io
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from synood.app import cli, doctor
from synood.core import stages
from synood.data import images
from synood.data.datasets import OTHER_SETS, STYLES, find_sets, imagenet_names, imagenet_wnids
from synood.app.doctor import diagnose, exit_status, next_steps
from synood.evaluation.plan import RATES
from synood.evaluation.table_check import Checked, check_tables
from synood.data.images import read_sets, protocols
from synood.core.stages import run_stage
from synood.core.scales import get_scale

WNIDS = 'n01440764', 'n04008634', 'n04355933'  # classes 0, 744 (the second missile is 744) and 836
LABELS = [imagenet_wnids().index(w) for w in WNIDS]
VAL = [(f'ILSVRC2012_val_{k:08d}.JPEG', k % 3) for k in range(1, 10)]  # nine images, three of each class
FEW = dict(imagenet_train=6, imagenet_val=9, imagenet_openood=6, imagenet_openood_val=3, iNaturalist=6, SUN=4,
           Places=4, dtd=6,
           textures_openood=4, ssb_hard=4, ninco=3, ninco_clean=2, imagenet_o=2, openimage_o=3, openimage_o_val=1,
           imagenet_v2=2, imagenet_a=2, imagenet_r=2, imagenet_sketch=2,
           cifar10=2, cifar100=2, cub=2, stanford_cars=2, food101=2, oxford_pets=2)
TEXTURES = ['banded_1', 'banded_2', 'bubbly_1', 'bubbly_2', 'woven_1', 'woven_2']  # OpenOOD leaves `bubbly` out
MOS = dict(imagenet_train=6, imagenet_val=9, iNaturalist=6, SUN=4, Places=4, dtd=6)


def write(path, text=None):
    "A small photograph of its own colour, or a text."
    path.parent.mkdir(parents=True, exist_ok=True)
    if text is not None:
        return path.write_text(text)
    colour = tuple(np.random.default_rng(len(str(path.name))).integers(0, 256, 3).tolist())
    Image.new('RGB', (24, 16), colour).save(path, format='JPEG')


def imagenet(folder, flat=False, train=None):
    "Validation images in `folder`, one folder per class unless `flat`, and training images in `train`."
    for name, k in VAL:
        write(folder/(name if flat else f'{WNIDS[k]}/{name}'))
    for wnid in WNIDS if train else ():
        for k in range(2):
            write(train/wnid/f'{wnid}_{k}.JPEG')


def scenes(pattern, root, textures, deep=True):
    "iNaturalist, SUN and Places at `pattern`, and DTD at `textures`, one folder per texture if `deep`."
    for name in ('iNaturalist', 'SUN', 'Places'):
        for k in range(FEW[name]):
            write(root/pattern.format(name)/f'{k}.jpg')
        (root/pattern.format(name)).with_name(f'class_list_{name}.txt').write_text('a list that is no image')
    for name in TEXTURES:
        write(root/textures/(f'{name.split("_")[0]}/{name}.jpg' if deep else f'{name}.jpg'))


def listed(path, *names):
    write(path, ''.join(f'{name} -1\n' for name in names))


def openood(root):
    "OpenOOD's tree: flat ImageNet with its two lists, the near and far sets with theirs."
    large, lists = root/'images_largescale', root/'benchmark_imglist'/'imagenet'
    imagenet(large/'imagenet_1k'/'val', flat=True, train=large/'imagenet_1k'/'train')
    for part, rows in (('test', VAL[:6]), ('val', VAL[6:])):
        write(lists/f'{part}_imagenet.txt', ''.join(f'imagenet_1k/val/{name} {LABELS[k]}\n' for name, k in rows))
    sets = dict(inaturalist=[f'inaturalist/images/{k}.jpg' for k in range(6)],
                ssb_hard=[f'ssb_hard/n0000000{k}/{k}.JPEG' for k in range(4)],
                ninco=['ninco/Amphiuma_means/1.PNG', 'ninco/Amphiuma_means/2.gif', 'ninco/cat/3.jpeg'],
                imagenet_o=['imagenet_o/n01440764/a.JPEG', 'imagenet_o/n01440764/b.JPEG'],
                openimage_o=[f'openimage_o/images/{k}.jpg' for k in range(4)])
    for key, names in sets.items():
        for name in names:
            write(large/name)
        listed(lists/f'test_{key}.txt', *names[:FEW['openimage_o'] if key == 'openimage_o' else None])
    listed(lists/'val_openimage_o.txt', *sets['openimage_o'][3:])
    kept = [f'texture/{t.split("_")[0]}/{t}.jpg' for t in TEXTURES if 'bubbly' not in t]
    for name in kept:
        write(root/'images_classic'/name)
    listed(lists/'test_textures.txt', *kept)


def plain(root, val, pattern, textures, deep=True):
    "A tree with one folder per class of ImageNet, `val` and beside it its training part, and the `scenes`."
    imagenet(root/val, train=root/val.replace('val', 'train'))
    scenes(pattern, root, textures, deep)


mos = partial(plain, val='dataset/id_data/ILSVRC-2012/val', pattern='dataset/ood_data/{}/images',
              textures='dataset/ood_data/Textures')
mcm = partial(plain, val='datasets/ImageNet/val', pattern='datasets/ImageNet_OOD_dataset/{}/images',
              textures='datasets/ImageNet_OOD_dataset/dtd/images')
locoop = partial(plain, val='data/imagenet/images/val', pattern='data/{}/images', textures='data/Texture/images')
csp = partial(plain, val='val_per_class', pattern='{}/images', textures='Textures/images_collate', deep=False)
synood = partial(plain, val='data/ImageNet/val', pattern='data/{}/images', textures='data/dtd/images')


def neglabel(root):
    imagenet(root/'data/val', flat=True, train=root/'data/train')
    write(root/'data/meta/val_labeled.txt', ''.join(f'{name} {LABELS[k]}\n' for name, k in VAL))
    scenes('data/ood_data/{}/images', root, 'data/ood_data/Textures/dtd/images_collate', deep=False)
    shutil.copytree(root/'data/ood_data/Textures/dtd/images_collate', root/'data/ood_data/Textures/dtd/images')


def cma(root):
    openood(root/'openood')
    shutil.rmtree(root/'openood/images_largescale/imagenet_1k')
    imagenet(root/'imagenet_1k/val', train=root/'imagenet_1k/train')
    scenes('MOS/{}/images', root, 'MOS/dtd/images')


def openood_vlm(root):
    openood(root/'data')
    lists = root/'data/benchmark_imglist/imagenet'
    for name in ('SUN', 'Places'):
        names = [f'{name}/images/{k}.jpg' for k in range(4)]
        for k in range(5):  # one more than the list has
            write(root/'data/images_largescale'/f'{name}/images/{k}.jpg')
        listed(lists/f'test_{name.lower()}.txt', *names)
    names = [f'dtd/images/{t.split("_")[0]}/{t}.jpg' for t in TEXTURES]
    for name in names:
        write(root/'data/images_largescale'/name)
    listed(lists/'test_dtd.txt', *names)
    write(lists/'test_imagenet_all.txt', ''.join(f'imagenet_1k/val/{name} {LABELS[k]}\n' for name, k in VAL))


def write_styles(root):
    "Two pictures of every set that shows ImageNet's classes in another style."
    for folder in ('imagenet-a', 'imagenet-r', 'sketch'):
        for wnid in ('n01440764', 'n01443537'):
            write(root/folder/wnid/f'{folder}.jpg')
    for label in (0, 1):
        write(root/f'imagenetv2-matched-frequency-format-val/{label}/{label}.jpeg')


def write_other_sets(root):
    "Two test images, of two classes, of every ID set that nothing is trained on, and one more for training."
    for folder in ('images_classic/cifar10/test', 'images_classic/cifar100/test', 'car_data/test', 'food-101/images'):
        for name in ('a', 'b'):
            write(root/folder/name/'1.jpg')
    for name in ('001.A/1', '002.B/2', '002.B/3'):
        write(root/f'CUB_200_2011/images/{name}.jpg')
    write(root/'CUB_200_2011/images.txt', '1 001.A/1.jpg\n2 002.B/2.jpg\n3 002.B/3.jpg\n')
    write(root/'CUB_200_2011/train_test_split.txt', '1 0\n2 0\n3 1\n')
    write(root/'food-101/images/b/2.jpg')
    write(root/'food-101/meta/test.txt', 'a/1\nb/1\n')
    for name in ('A_1', 'b_1', 'b_2'):
        write(root/f'oxford-iiit-pet/images/{name}.jpg')
    write(root/'oxford-iiit-pet/annotations/test.txt', 'A_1 1 1 1\nb_2 2 2 1\n')


OPENOOD = dict(imagenet_openood=6, imagenet_openood_val=3, textures_openood=4, ssb_hard=4, ninco=3, imagenet_o=2,
               openimage_o=3, openimage_o_val=1)
PLAIN = dict(imagenet_train=6, imagenet_val=9, iNaturalist=6)  # what OpenOOD has of the sets of MOS
LAYOUTS = {'MOS': (mos, MOS), 'MCM': (mcm, MOS), 'LoCoOp': (locoop, MOS), 'NegLabel': (neglabel, MOS),
           'CSP': (csp, MOS), 'CMA': (cma, MOS | OPENOOD), 'SynOOD': (synood, MOS),
           'OpenOOD': (lambda root: openood(root/'data'), OPENOOD | PLAIN), 'OpenOOD-VLM': (openood_vlm, MOS | OPENOOD)}


@pytest.fixture(autouse=True)
def costs(monkeypatch):
    "A cost model that is quick, and notebooks that are well; the machine's disk is no part of these tests."
    monkeypatch.setattr('synood.evaluation.costs.stage_flops', lambda scale: dict(synthesis=2e15))
    monkeypatch.setattr(doctor, 'step_rates', lambda scale: dict.fromkeys(RATES, 4e11))
    monkeypatch.setattr(doctor, 'planned', lambda scale: None)
    monkeypatch.setattr(doctor, 'check_tables', lambda scale, notebooks: [Checked('table5.ipynb', 9, 1)])
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=1e15))


@pytest.fixture
def scale(tmp_path):
    "The scale `mini` on images from a disk: its networks are always there."
    return get_scale('mini').replace(name='disk', world='disk', protocol='mos')


def of(items, check='data'):
    return {item.name: item for item in items if item.check == check}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_set_of_every_layout_is_found(layout, tmp_path):
    build, expected = LAYOUTS[layout]
    build(tmp_path)
    found_sets = find_sets(tmp_path, counts=FEW)
    if 'dtd' in expected: expected = expected | {'textures_openood': 4}
    assert {key: len(f.images) for key, f in found_sets.items() if not f.problems} == expected
    assert {f.layout for key, f in found_sets.items() if key in LAYOUTS[layout][1]} == {layout}
    val = found_sets['imagenet_val'].images
    assert val.classes == imagenet_names() and val.labels.tolist() == sorted(LABELS[k] for _, k in VAL)
    # in any layout the same order
    assert [Path(f).name for f in val.files] == [name for k in range(3) for name, c in VAL if c == k]
    ood = [f.images for key, f in found_sets.items() if not key.startswith('imagenet_') or key == 'imagenet_o']
    assert ood and all((images.labels == -1).all() for images in ood)
    def counts(sets): return {key: len(f.images) for key, f in sets.items()}
    for root in tmp_path.glob('data*'):  # the data folder itself is a root as well
        assert counts(find_sets(root, counts=FEW)) == counts(found_sets)


def harm(sets):
    """Everything at once, done to files of `sets`, which are those of an intact tree.

    Returns {what was done: a path in the findings}."""
    plants = [sets['iNaturalist'].images.path(k) for k in range(6)]
    Image.effect_noise((64, 64), 50).save(plants[0])
    plants[0].write_bytes(plants[0].read_bytes()[:-500])
    Image.fromarray(np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)).save(plants[1], format='PNG')
    Image.new('CMYK', (24, 16)).save(plants[2], format='JPEG')
    frames = [Image.new('RGB', (8, 8), colour) for colour in ('red', 'blue')]
    frames[0].save(plants[3], format='GIF', save_all=True, append_images=frames[1:])
    plants[4].write_bytes(b'')
    (plants[0].parent/'loop').symlink_to('..')
    (plants[0].parent/'itself').symlink_to('itself')
    return dict(zip(('truncated', '16 bits: scaled to 8', 'CMYK: converted to RGB', '2 frames: the first is used',
                     'the file is empty'), plants))


@pytest.mark.parametrize('layout', LAYOUTS)
def test_everything_wrong_is_named_and_nothing_ends_the_rest(layout, scale, tmp_path, monkeypatch):
    build, expected = LAYOUTS[layout]
    build(tmp_path)
    sets = find_sets(tmp_path, counts=FEW)
    harmed = harm(sets)
    locked = sets['imagenet_val'].images.path(0)
    page = sets['imagenet_val'].images.path(1)
    write(page, '<!DOCTYPE html>')
    train = sets['imagenet_train'].images
    train.path(0).unlink()  # a wrong count
    if 'SUN' in expected:  # a missing set
        shutil.rmtree(sets['SUN'].images.path(0).parent.parent)

    class Guarded(io.FileIO):  # also for the super-user, who may read everything
        def __init__(self, path, *args, **kwargs):
            if str(path) == str(locked): raise PermissionError(13, 'Permission denied', str(path))
            super().__init__(path, *args, **kwargs)
    monkeypatch.setattr(io, 'FileIO', Guarded)

    items = diagnose(scale, tmp_path, tmp_path/'runs', counts=FEW)
    data = of(items)
    assert not [item for item in items if item.finding.startswith('this check stopped')]
    assert data['SUN'].status in ('missing', 'broken') and data['SUN'].finding.startswith('0 images')
    assert data['imagenet_train'].status == 'broken'
    assert '5 images, 6 expected: an unfinished download' in data['imagenet_train'].finding
    lines = [line for item in data.values() for line in item.details]
    for what, path in harmed.items():
        assert [line for line in lines if line.startswith(f'{path}: ') and what in line], (what, lines)
    assert [line for line in lines if line.startswith(f'{locked}: ') and 'Permission denied' in line]
    assert [line for line in lines if line.startswith(f'{page}: ') and '<!DOCTYPE' in line]
    assert data['iNaturalist pictures'].status == data['imagenet_val pictures'].status == 'broken'
    # the loops add nothing
    assert data['iNaturalist'].status == 'ok' and 'in the layout of ' + layout in data['iNaturalist'].finding
    assert '3 unusual' in data['iNaturalist pictures'].finding
    assert '2 of 6 cannot be read' in data['iNaturalist pictures'].finding
    assert data['imagenet_train pictures'].status == 'ok'
    assert {item.check for item in items} == {'data', 'models', 'machine', 'work', 'cost', 'tables', 'notebooks'}
    assert all('\n' not in item.finding + item.remedy + ''.join(item.details) for item in items)
    assert exit_status(items) == 1


def test_a_complete_disk_has_status_0_and_a_table_for_every_protocol(scale, tmp_path):
    openood_vlm(tmp_path)
    write(tmp_path/'NINCO/NINCO_popular_datasets_subsamples/places/a b.jpg')
    write(tmp_path/'NINCO/NINCO_popular_datasets_subsamples/textures/c.JPG')
    write_styles(tmp_path)
    write_other_sets(tmp_path)
    items = diagnose(scale, tmp_path, tmp_path/'runs', counts=FEW)
    harm = [item for item in items if item.status in ('missing', 'broken')]
    # six pictures are few for a thousand classes
    assert [(item.check, item.name) for item in harm] == [('work', 'numbers')]
    assert '1000 classes' in harm[0].finding
    protocols_found = {name: item.status for name, item in of(items).items() if name.startswith('protocol ')}
    names = 'imagenet', 'mos', 'openood15', 'synood_table2', 'ninco_clean'
    names = *names, *(f'mos-{other}' for other in (*STYLES, *OTHER_SETS))
    assert protocols_found == {f'protocol {name}': 'ok' for name in names}
    assert {item.status for item in of(items, 'tables').values()} == {'ok'} and len(of(items, 'tables')) == 9


def test_code_of_a_table_that_would_stop_is_broken_today(scale, tmp_path, monkeypatch):
    cells = ["#| stage\nfrom synood.core.parameters import resolve_root\nroot = resolve_root(root)",
             "#| stage\nfrom synood.evaluation.benchmark import experiment\nfrom synood.scores.method import MCM",
             "#| stage\nrows = experiment('toy', [MCM()], scale, seeds, root)",
             "#| stage\nrows.set_index('group').loc['near']"]  # mos has none
    cells = [dict(cell_type='code', metadata={}, outputs=[], execution_count=None, source=source) for source in cells]
    write(tmp_path/'toy.ipynb', json.dumps(dict(cells=cells)))
    monkeypatch.setattr(doctor, 'check_tables', check_tables)
    monkeypatch.setattr(doctor, 'table_notebooks', lambda: [tmp_path/'toy.ipynb'])
    items = diagnose(scale, root=tmp_path/'runs')
    toy = of(items, 'notebooks')['toy.ipynb']
    assert toy.status == 'broken' and toy.finding.endswith("stops at KeyError: 'near'")
    assert exit_status([toy]) == 1
    toy = of(diagnose(scale.replace(protocol='openood15'), root=tmp_path/'runs'), 'notebooks')['toy.ipynb']
    assert (toy.status, toy.finding[:11]) == ('ok', '4 cells run')


def test_a_set_of_another_protocol_only_warns(scale, tmp_path):
    synood(tmp_path)
    items = diagnose(scale, tmp_path, tmp_path/'runs', counts=FEW)
    assert exit_status([item for item in items if item.check != 'work']) == 0
    assert of(items)['ninco'].status == of(items)['protocol openood15'].status == 'warn'
    tables = of(items, 'tables')
    assert tables['Table 1'].status == 'ok' and tables['Table 2'].finding == 'blocked by data protocol synood_table2'


def test_what_to_do_begins_with_what_takes_longest(tmp_path, monkeypatch):
    def lacking(ids, field): raise FileNotFoundError(f'{field} is not there')
    monkeypatch.setattr(doctor, 'resolve', lacking)
    (tmp_path/'empty').mkdir()
    steps = {place: next_steps(diagnose('paper', tmp_path/place, tmp_path/'runs')) for place in ('empty', 'nowhere')}
    names = [step.partition(': ')[0] for step in steps['empty']]
    sets = ('imagenet_train', 'imagenet_val', 'imagenet_openood', 'iNaturalist', 'SUN', 'Places', 'dtd', 'ssb_hard',
            'ninco', 'imagenet_o', 'openimage_o')
    assert names[:-2] == list(sets) and names[-2].startswith('clip, ')
    assert 'synood fetch-models --scale paper' in steps['empty'][-2] and names[-1] == 'the same command once more'
    text = '\n'.join(steps['empty'])  # nothing is to be fetched twice, and the lists are not ImageNet's
    assert [text.count(name) for name in ('img_val.tar', 'dtd-r1.0.1', 'benchmark_imglist.zip')] == [1, 1, 1]
    assert 'image-net.org' not in steps['empty'][2] and 'github.com/Jingkang50/OpenOOD' in steps['empty'][2]
    assert steps['nowhere'][0].startswith(f'images: make {tmp_path}/nowhere') and steps['nowhere'][1:] == steps['empty']


def test_protocols_share_what_is_made_of_the_training_images(scale, tmp_path):
    openood_vlm(tmp_path)
    def key(name, protocol, **more):
        images._listing.cache_clear()
        return stages.stage_key(name, scale.replace(data=str(tmp_path), protocol=protocol, **more), 0)
    first = key('synthesis', 'mos')
    write(tmp_path/'readme.txt', 'no image')
    assert first == key('synthesis', 'mos') == key('synthesis', 'synood_table2')
    assert first == key('synthesis', 'openood15', n_test=1, test_splits=2)
    assert key('images', 'mos') != key('images', 'synood_table2') and first != key('synthesis', 'mos-base')
    next(tmp_path.rglob('train/*/*.JPEG')).unlink()
    assert first != key('synthesis', 'mos')


@pytest.mark.parametrize('key, n, cause', [('dtd', 4, "OpenOOD's 43 textures"),
                                           ('imagenet_val', 6, "OpenOOD's test part"),
                                           ('imagenet_val', 9 + 9, 'every image is there twice'),
                                           ('SUN', 3, 'unfinished download or unpacking of SUN.tar.gz')])
def test_a_wrong_count_has_its_likely_cause(key, n, cause, tmp_path):
    mcm(tmp_path)
    folder = find_sets(tmp_path, (key,), FEW)[key].source
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    for path in files[n:]:
        path.unlink()
    for k in range(n - len(files)):
        shutil.copy(files[k], files[k].with_name(f'copy_{files[k].name}'))
    assert cause in find_sets(tmp_path, (key,), FEW)[key].problems[-1]


def test_a_protocol_names_all_that_is_wrong_at_once(tmp_path):
    openood(tmp_path)
    (tmp_path/'benchmark_imglist/imagenet/test_imagenet.txt').unlink()
    shutil.rmtree(tmp_path/'images_largescale/ssb_hard')
    (tmp_path/'images_largescale/ninco/cat/3.jpeg').unlink()
    with pytest.raises(ValueError) as caught:
        replace(protocols['synood_table2'], counts=FEW).load(tmp_path)
    message = str(caught.value)
    assert '\n' not in message
    assert ('imagenet_openood: the list test_imagenet.txt is missing: OpenOOD ships it in benchmark_imglist.zip; '
            'put it at') in message
    for part in ('1 of 3 files of', 'ninco/cat/3.jpeg for one', 'ninco: 2 images, 3 expected'): assert part in message
    assert 'ssb_hard: ' in message and '4 of 4 files of' in message


def test_images_to_tune_on_are_never_in_the_test(tmp_path):
    openood(tmp_path)
    preset = replace(protocols['openood15'], counts=FEW)
    test = {Path(f).name for f in preset.load(tmp_path)['id'].files}
    assert test == {name for name, _ in VAL[:6]}
    lists = tmp_path/'benchmark_imglist/imagenet'
    text = (lists/'test_imagenet.txt').read_text().splitlines()[1:]
    text.append(f'imagenet_1k/val/{VAL[8][0]} {LABELS[VAL[8][1]]}')
    (lists/'test_imagenet.txt').write_text('\n'.join(text))
    both = '1 images are in both test_imagenet.txt and val_imagenet.txt, ILSVRC2012_val_00000009.JPEG for one'
    with pytest.raises(ValueError, match=both):
        preset.load(tmp_path)


def test_a_run_reads_what_the_doctor_found(scale, tmp_path, monkeypatch):
    neglabel(tmp_path/'disk')
    harm(find_sets(tmp_path/'disk', counts=FEW))  # pictures are read later, links are followed now
    monkeypatch.setitem(protocols, 'few', replace(protocols['mos'], name='few', counts=FEW))
    few = scale.replace(protocol='few', data=str(tmp_path/'disk'), n_train=1, n_test=2, test_splits=1, seeds=(0,))
    sets = read_sets(run_stage('images', few, (0,), tmp_path/'runs')[0])
    assert {key: len(s) for key, s in sets.items()} == dict(train=3, id=4, iNaturalist=2, SUN=2, Places=2, dtd=2)
    assert sets['train'].classes == sets['id'].classes == imagenet_names() and sets['train'].labels.tolist() == LABELS
    assert len(sets['id'].hash) == 16


def test_flat_validation_images_by_the_development_kit(tmp_path):
    imagenet(tmp_path/'ImageNet/val', flat=True)
    problem, = find_sets(tmp_path, ('imagenet_val',), FEW)['imagenet_val'].problems
    assert '9 images lie in no folder named by a WordNet id' in problem and 'val_labeled.txt' in problem
    kit = tmp_path/'ImageNet/ILSVRC2012_devkit_t12/data'
    write(kit/'ILSVRC2012_validation_ground_truth.txt', ''.join(f'{3 - k}\n' for _, k in VAL))  # numbers of its own
    rows = [(3 - k, wnid, 0) for k, wnid in enumerate(WNIDS)]
    columns = [('ILSVRC2012_ID', 'O'), ('WNID', 'O'), ('num_children', 'O')]
    savemat(kit/'meta.mat', dict(synsets=np.array(rows, columns)))
    val = find_sets(tmp_path, ('imagenet_val',), FEW)['imagenet_val']
    assert val.problems == ()
    labels = {Path(file).name: label for file, label in zip(val.images.files, val.images.labels)}
    assert labels == {name: LABELS[k] for name, k in VAL}


def test_ninco_with_blanks_in_its_names(tmp_path):
    openood(tmp_path)
    (tmp_path/'images_largescale/ninco/Amphiuma_means').rename(tmp_path/'images_largescale/ninco/Amphiuma means')
    assert find_sets(tmp_path, ('ninco',), FEW)['ninco'].problems == ()


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    mcm(tmp_path)
    locked = tmp_path/'datasets/ImageNet_OOD_dataset/SUN/images'
    usual = os.scandir

    def scandir(folder):
        if Path(folder) == locked:
            raise PermissionError(13, 'Permission denied', str(folder))
        return usual(folder)
    monkeypatch.setattr(os, 'scandir', scandir)
    sets = find_sets(tmp_path, counts=FEW)
    assert sets['SUN'].problems[0] == f'{locked}: this folder cannot be listed: Permission denied'
    assert not sets['Places'].problems


def test_a_file_and_a_folder_without_permissions(scale, tmp_path):
    mcm(tmp_path)
    file = tmp_path/'datasets/ImageNet_OOD_dataset/SUN/images/0.jpg'
    folder = tmp_path/'datasets/ImageNet_OOD_dataset/Places'
    file.chmod(0)
    folder.chmod(0)
    if os.access(file, os.R_OK):
        folder.chmod(0o755)
        pytest.skip('the super-user may read everything; other tests imitate it')
    try:
        data = of(diagnose(scale, tmp_path, tmp_path/'runs', counts=FEW))
    finally:
        folder.chmod(0o755)
    assert 'Permission denied' in data['SUN pictures'].details[0]
    assert f'{folder}' in data['Places'].finding


def test_the_command(tmp_path, capsys, monkeypatch):
    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main(['doctor', '--root', str(tmp_path/'runs'), *arguments])
        return end.value.code or 0, capsys.readouterr()

    code, printed = call('--scale', 'mini')
    assert code == 0 and 'rendered, nothing needed' in printed.out and printed.out.endswith('nothing is missing\n')
    synood(tmp_path/'disk')
    (tmp_path/'own.toml').write_text('world = "disk"\nprotocol = "mos"\ndata = "disk"\n')
    code, printed = call('--scale', str(tmp_path/'own.toml'), '--json')
    report = json.loads(printed.out)
    assert code == report['status'] == 1 and report['scale'] == 'own' and set(report) == {'scale', 'status', 'items'}
    assert all(set(item) == {'check', 'name', 'status', 'finding', 'remedy', 'details'} for item in report['items'])
    # of the published numbers
    assert {item['name'] for item in report['items'] if item['status'] == 'broken'} >= {'imagenet_val', 'SUN', 'dtd'}
    assert {item['name'] for item in report['items']} >= {'SUN pictures'}
    code, printed = call('--scale', str(tmp_path/'own.toml'), '--json', '--no-check-images')
    assert 'SUN pictures' not in printed.out
    for wrong in (('--scale', 'minni'), ('--nonsense',)):
        assert call(*wrong)[0] == 2
    code, printed = call('--data', str(tmp_path/'nowhere'))  # whoever asks may not have made the folder yet
    assert code == 1 and f'{tmp_path}/nowhere: no such folder' in printed.out
    assert 'get ILSVRC2012_img_train.tar (147.9 GB) from https://image-net.org' in printed.out
    monkeypatch.setattr(doctor, 'step_rates', lambda scale: 1/0)
    code, printed = call('--scale', 'mini')
    assert code == 1 and 'this check stopped: ZeroDivisionError' in printed.out and 'Table 5' in printed.out
