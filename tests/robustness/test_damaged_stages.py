"""A finished stage whose folder was harmed is refused, with the command that repairs; `verify` finds each harm."""
import json
import shutil
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from synood.app.verify import CheckableResult, checkable_results, compare
from synood.core.files import atomic_write, file_hash
from synood.core.rows import ROW_COLUMNS, Rows, publish_rows
from synood.core.scales import get_scale, setting_groups, settings
from synood.core.stages import run_stage, stage, stage_problem, stages
from synood.data.images import image_folder
from synood.models.cache import cached_arrays, image_set_hash
from synood.outliers.context import AnswerCache

SMOKE = get_scale('smoke')
SQUARES = '00001/squares.json'


@pytest.fixture
def toys():
    "Two toy stages: one squares twenty numbers in batches, the other writes three letters."
    @settings('toy_squares')
    @dataclass(frozen=True)
    class ToySquares:
        batch_size: int = 5

    @stage('toy-squares', uses=('m', 'toy_squares'), seeded=True, shared=True)
    def toy_squares(job):
        def make(batch, folder): (folder/'squares.json').write_text(json.dumps([n**2 + job.seed for n in batch]))
        job.batches(list(range(job.scale.m)), job.scale.toy_squares.batch_size, make)

    @stage('toy-letters', uses=('m',))
    def letters(job): atomic_write(job.folder/'letters.txt', 'abc')
    yield
    for name in ('toy-squares', 'toy-letters'): del stages[name]
    del setting_groups['toy_squares']


# ---- a stage

def lost(path): path.unlink()
def short(path): path.write_bytes(b'')
def other(path): path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
def foreign(path): path.write_text('null')


def edited(path):
    whole = path.read_text()
    assert '"toy_squares.batch_size": 5' in whole
    path.write_text(whole.replace('"toy_squares.batch_size": 5', '"toy_squares.batch_size": 6'))


@pytest.mark.parametrize('harm, name, cause', [
    (lost, SQUARES, 'it holds 3 files'), (short, SQUARES, 'it holds 4 files of'),
    (other, SQUARES, 'the content of its files'), (lost, 'manifest.json', 'it holds no manifest'),
    (short, 'manifest.json', 'its manifest.json is'), (foreign, 'manifest.json', 'its manifest.json is'),
    (edited, 'manifest.json', 'its manifest.json is damaged: it is not what was written')])
def test_a_harmed_stage_is_refused_with_the_command_that_repairs(toys, tmp_path, harm, name, cause):
    root = tmp_path/'runs'
    folder = run_stage('toy-squares', SMOKE, (2,), root)[2]
    whole = (folder/name).read_bytes()
    harm(folder/name)
    with pytest.raises(ValueError) as error: run_stage('toy-squares', SMOKE, (2,), root)
    assert f'{folder} is damaged: {cause}' in str(error.value)
    assert f'`synood verify --repair --root {root}` removes it' in str(error.value)
    (folder/name).write_bytes(whole)
    assert stage_problem(folder) == ''


def test_a_copy_under_another_name_is_another_stage(toys, tmp_path):
    folder = run_stage('toy-squares', SMOKE, (2,), tmp_path/'runs')[2]
    twin = shutil.copytree(folder, folder.with_name('seed2-0123456789ab'))
    assert stage_problem(twin) == f'it is the folder {folder.name}'


# ---- one result of each kind

@pytest.fixture
def results(toys, tmp_path):
    "A root with one result of each kind, a detector beside it, and the file of each kind that is to be harmed."
    root, detector = tmp_path/'runs', tmp_path/'detector'
    (tmp_path/'pictures').mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path/'pictures'/'black.png')
    run_stage('toy-letters', 'smoke', (0,), root)
    cached_arrays(root/'cache', {'of': 'ones'}, 3, lambda rows: {'one': np.ones((len(rows), 2))})
    image_set_hash(image_folder(tmp_path/'pictures', labelled=False), root/'cache')
    AnswerCache(root/'cache'/'answers'/'question').write(tmp_path/'pictures'/'black.png', 'cow', 'grass')
    rows = Rows(root/'smoke'/'rows', 'context')
    rows.make({'method': 'toy'}, lambda: [dict.fromkeys(ROW_COLUMNS, '')])
    publish_rows(rows.folder, 'toy', [rows.path({'method': 'toy'})])
    (root/'smoke'/'notebooks').mkdir()
    atomic_write(root/'smoke'/'notebooks'/'20_toy.json', '{"key": "k", "outputs": {}}')
    detector.mkdir()
    (detector/'arrays').write_bytes(b'123')
    (detector/'detector.json').write_text(json.dumps(dict(files=dict(arrays=file_hash(detector/'arrays')))))
    files = {result.kind: result.path for result in checkable_results(root, [detector])}
    files |= dict(stage=files['stage']/'letters.txt', detector=detector/'arrays')
    return SimpleNamespace(root=root, detector=detector, files=files)


def emptied(content): return b''
def cut(content): return content[:len(content)//2]
def turned(content): return content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]


HASHED = 'features', 'hash', 'answer', 'stage', 'rows', 'list', 'detector'
OF_KNOWN_FORM = 'record', 'log'  # which have no hash


@pytest.mark.parametrize('kind, harm', [(kind, harm) for harm in (emptied, cut) for kind in HASHED + OF_KNOWN_FORM]
                         + [(kind, turned) for kind in HASHED])
def test_verify_finds_a_harmed_result_and_no_other(results, kind, harm):
    assert set(results.files) == {*HASHED, *OF_KNOWN_FORM}
    file = results.files[kind]
    file.write_bytes(harm(file.read_bytes()))
    differing = {result.kind for result, problem in compare(checkable_results(results.root, [results.detector]))
                 if problem}
    assert differing == ({kind, 'list'} if kind == 'rows' else {kind})


def test_the_size_of_a_result_is_that_of_all_its_files(results):
    size = (results.detector/'detector.json').stat().st_size + 3
    assert CheckableResult('detector', results.detector).size == size
