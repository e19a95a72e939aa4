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


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    "Run a command that has to be refused; return its line, after a look at what was made."
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended: main([str(a) for a in arguments])
        said = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2, said
        assert not list(tmp_path.rglob('contexts')) and not list(tmp_path.rglob('synthesis'))
        return said[-1]
    return call


def photographs(folder, names):
    for k, name in enumerate(names):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng(0, 'photo', k).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder/name, 'png')
    return folder


FOUR = 'cat/1.png', 'cat/2.png', 'dog/1.png', 'dog/2.png'


@pytest.mark.parametrize('text, said', [
    ('steps = 1\nstrength = 0.5', 'strength must be so large that it leaves one of the 1 steps'),
    ('steps = 1001', 'steps = 1001: '),
    ('m = 30', 'm = 30: 20 classes cannot share so many images evenly'),
    ('m = 200', 'm = 200: 10 of every class are asked for'),
    ('inpainting = ["./nowhere"]', 'nowhere'),
    ('lr = -1', 'lr must be at least 0'),
    ('label_min = 21', 'label_min must be at most m = 20'),
    ('zoc_prompt = "a {kind} of {}"', 'no other braces'),
    ('strenght = 0.5', 'did you mean strength?')])
def test_settings_that_make_no_sense_together(refused, tmp_path, text, said):
    (tmp_path/'odd.toml').write_text(f'base = "smoke"\n{text}\n')
    assert said in refused('run', 'synthesis', '--scale', 'odd.toml', '--root', 'r')
    assert said in refused('reproduce', '--scale', 'odd.toml', '--only', 'fig4', '--root', 'r')


@pytest.mark.parametrize('field, value', [('prompt_shots', 5), ('cocoop_length', 5), ('clipn_batch', 1)])
def test_settings_of_table_1_stop_table_1_alone(refused, tmp_path, field, value):
    (tmp_path/'odd.toml').write_text(f'base = "smoke"\n{field} = {value}\n')
    assert f'{field} = {value}: ' in refused('reproduce', '--scale', 'odd.toml', '--only', 'table1', '--root', 'r')
    preflight(tmp_path/'odd.toml', tmp_path, fields={'clip', 'm'})


@pytest.mark.parametrize('names, said', [
    (('cat/' + 'x'*248 + '.jpg', *FOUR[1:]), 'bytes that names may have at r: shorten it'),
    (('cat/1.jpg', 'cat/1.jpg.png', *FOUR[2:]), 'their synthetic pictures would be one file')])
def test_names_that_have_no_place(refused, tmp_path, names, said):
    photographs(tmp_path/'photos', names)
    assert said in refused('synthesize', 'photos', '--scale', 'smoke', '--m', 4, '--root', 'r')


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
            said = refused(*command, '--scale', 'smoke')
            assert 'Permission denied: make room' in said and said.endswith('name another place with --root')
    finally: tmp_path.chmod(0o755)


def test_a_root_that_is_a_file(refused, tmp_path):
    (tmp_path/'r').touch()
    photographs(tmp_path/'photos', FOUR)
    for command in (('run', 'images'), ('reproduce',), ('synthesize', 'photos', '--m', 4)):
        said = refused(*command, '--scale', 'smoke', '--root', 'r')
        assert said.endswith('no folder: name another place with --root')


def test_the_doctor_finds_the_same(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr('synood.app.doctor.matmul_rate', lambda *args: 1e12)
    (tmp_path/'r').touch()
    (tmp_path/'odd.toml').write_text('base = "smoke"\nm = 30\n')
    with pytest.raises(SystemExit) as ended:
        main(['doctor', '--scale', str(tmp_path/'odd.toml'), '--root', str(tmp_path/'r'), '--json'])
    found = {i['name']: i for i in json.loads(capsys.readouterr().out)['items'] if i['check'] == 'work'}
    assert ended.value.code == 1
    assert {name for name, item in found.items() if item['status'] == 'broken'} == {'root', 'figures', 'numbers'}


@pytest.mark.skipif(sys.platform != 'linux', reason='a system that says how many bytes are free')
def test_a_disk_that_is_too_small(tmp_path):
    import dataclasses
    large = dataclasses.replace(get_scale('smoke'), resolution=8*10**8)
    with pytest.raises(OSError, match='GB will be written, and .* GB are free'):
        preflight(large, tmp_path, 'synthesis')
