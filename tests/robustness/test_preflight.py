"""What would stop a long command late is said before it begins: one line, status 2, and nothing is asked or painted."""
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from synood.app.cli import main
from synood.app.preflight import preflight
from synood.core.scales import get_scale, rng
from synood.evaluation.plan import RATES


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    "Run a command that has to be refused; return its line, after a look at what was made."
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended: main([str(a) for a in arguments])
        lines = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2, lines
        assert not list(tmp_path.rglob('contexts')) and not list(tmp_path.rglob('synthesis'))
        return lines[-1]
    return call


def photographs(folder, names):
    for k, name in enumerate(names):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng(0, 'photo', k).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder/name, 'png')
    return folder


FOUR = 'cat/1.png', 'cat/2.png', 'dog/1.png', 'dog/2.png'


@pytest.mark.parametrize('text, message', [
    ('synthesis.steps = 1\nsynthesis.strength = 0.5', 'strength must be so large that it leaves one of the 1 steps'),
    ('synthesis.steps = 1001', 'steps = 1001: '),
    ('m = 30', 'm = 30: 20 classes cannot share so many images evenly'),
    ('m = 200', 'm = 200: 10 of every class are asked for'),
    ('inpainting = ["./nowhere"]', 'nowhere'),
    ('finetuning.projection_lr = -1', 'finetuning.projection_lr must be at least 0'),
    ('finetuning.label_min_images = 21', 'finetuning.label_min_images must be at most m = 20'),
    ('zoc.prompt = "a {kind} of {}"', 'no other braces'),
    ('synthesis.strenght = 0.5', 'did you mean synthesis.strength?')])
def test_settings_that_make_no_sense_together(refused, tmp_path, text, message):
    (tmp_path/'odd.toml').write_text(f'base = "smoke"\n{text}\n')
    assert message in refused('run', 'synthesis', '--scale', 'odd.toml', '--root', 'r')
    assert message in refused('reproduce', '--scale', 'odd.toml', '--only', 'fig4', '--root', 'r')


@pytest.mark.parametrize('field, value', [('coop.shots', 5), ('cocoop.n_ctx', 5), ('clipn.batch_size', 1)])
def test_settings_of_one_row_are_told_and_stop_their_stage_alone(refused, tmp_path, capsys, field, value):
    (tmp_path/'odd.toml').write_text(f'base = "smoke"\n{field} = {value}\n')
    preflight(tmp_path/'odd.toml', tmp_path)
    assert f'{field} = {value}: ' in capsys.readouterr().err
    stage = field.partition('.')[0]
    assert f'{field} = {value}: ' in refused('run', stage, '--scale', 'odd.toml', '--root', 'r')
    preflight(tmp_path/'odd.toml', tmp_path, fields={'clip', 'm'})
    assert not capsys.readouterr().err


@pytest.mark.parametrize('names, message', [
    (('cat/' + 'x'*248 + '.jpg', *FOUR[1:]), 'bytes that names may have at r: shorten it'),
    (('cat/1.jpg', 'cat/1.jpg.png', *FOUR[2:]), 'their synthetic pictures would be one file')])
def test_names_that_have_no_place(refused, tmp_path, names, message):
    photographs(tmp_path/'photos', names)
    assert message in refused('synthesize', 'photos', '--scale', 'smoke', '--m', 4, '--root', 'r')


def test_pictures_that_cannot_be_read(refused, tmp_path):
    photographs(tmp_path/'photos', FOUR)
    photographs(tmp_path/'more', FOUR)
    cut = tmp_path/'more'/'dog'/'2.png'
    cut.write_bytes(cut.read_bytes()[:5000])
    assert '2.png' in refused('fit', 'photos', '--calibrate', 'more', '--tpr', '0.5', '--scale', 'smoke', '--out', 'd',
                              '--root', 'r')
    assert '2.png' in refused('synthesize', 'more', '--scale', 'smoke', '--m', 4, '--root', 'r')


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_that_is_read_only(refused, tmp_path):
    photographs(tmp_path/'photos', FOUR)
    tmp_path.chmod(0o555)
    try:
        for command in (('run', 'images'), ('reproduce',)):
            line = refused(*command, '--scale', 'smoke')
            assert 'Permission denied: make room' in line and line.endswith('name another place with --root')
    finally: tmp_path.chmod(0o755)


def test_a_root_that_is_a_file(refused, tmp_path):
    (tmp_path/'r').touch()
    photographs(tmp_path/'photos', FOUR)
    for command in (('run', 'images'), ('reproduce',), ('synthesize', 'photos', '--m', 4)):
        line = refused(*command, '--scale', 'smoke', '--root', 'r')
        assert line.endswith('no folder: name another place with --root')


def test_the_doctor_finds_the_same(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr('synood.app.doctor.step_rates', lambda scale: dict.fromkeys(RATES, 4e11))
    monkeypatch.setattr('synood.app.doctor.planned', lambda scale: None)
    monkeypatch.setattr('synood.app.doctor.check_tables', lambda *args: [])
    (tmp_path/'r').touch()
    (tmp_path/'odd.toml').write_text('base = "smoke"\nm = 30\n')
    with pytest.raises(SystemExit) as ended:
        main(['doctor', '--scale', str(tmp_path/'odd.toml'), '--root', str(tmp_path/'r'), '--json'])
    items = {i['name']: i for i in json.loads(capsys.readouterr().out)['items'] if i['check'] == 'work'}
    assert ended.value.code == 1
    assert {name for name, item in items.items() if item['status'] == 'broken'} == {'root', 'figures', 'numbers'}


@pytest.mark.skipif(sys.platform != 'linux', reason='a system that says how many bytes are free')
def test_a_disk_that_is_too_small(tmp_path):
    large = get_scale('smoke').replace(synthesis=dict(resolution=8*10**8))
    with pytest.raises(OSError, match='GB will be written, and .* GB are free'):
        preflight(large, tmp_path, 'synthesis')
