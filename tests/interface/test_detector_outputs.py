"""A detector whose classes and files have the worst names: nothing it writes or says is broken by them.

And folders that are no detectors."""
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import yaml
from PIL import Image

from hostile_names import BROKEN, FILES, NAMES
import synood.detector.labels
from synood.detector import OODDetector
from synood.models.clip import load_clip
from synood.core.files import embedded_model_folder
from synood.core.scales import get_scale


@pytest.fixture(scope='module')
def hostile(): return OODDetector.from_names(list(NAMES.values()), 'mini')


@pytest.fixture(scope='module')
def saved(hostile, tmp_path_factory):
    place = tmp_path_factory.mktemp('saved')/'detector'
    replace(hostile, threshold=.25, tpr=.95).save(place)
    return place


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path/'detector')
    return tmp_path/'detector'


@pytest.mark.parametrize('kind', BROKEN)
def test_names_that_no_class_has(kind):
    with pytest.raises(ValueError, match='which is no visible part of a text') as error:
        OODDetector.from_names(['cat', BROKEN[kind]], 'mini')
    assert len(str(error.value).splitlines()) == 1


def test_saved_and_said(hostile, saved):
    again = OODDetector.load(saved)
    assert again.names == hostile.names == tuple(NAMES.values())
    assert len(str(again).splitlines()) == 1 and len(str(again)) < 300


def test_figure_and_table(hostile):
    for c in range(0, len(hostile.names), 5):  # each near the top once
        tilted = replace(hostile, text=np.roll(hostile.text, c, 0),
                         negative_names=('the $6$ $\\frac{', *hostile.negative_names[1:]))
        why = tilted.explain(Image.new('RGB', (64, 64), 'blue'), top=200)
        assert why._repr_png_().startswith(b'\x89PNG')
        shown = [label.get_text() for label in why.figure().axes[-1].get_yticklabels()]
        assert f'{NAMES["dollars"]:.30}' in shown
        assert len(repr(why).splitlines()) == 1


def test_card(hostile):
    card = hostile.generate_model_card()
    head, body = str(card).split('---\n', 2)[1:]
    assert yaml.safe_load(head) == dict(library_name='synood', tags=['out-of-distribution-detection'])
    assert not any(text in body for text in ('<b>', '<script>', '\n# title'))
    assert r'\[link\](http' in body and r'cost \$5' in body


def test_exported_script_with_all_file_names(hostile, tmp_path):
    home = replace(hostile, threshold=.25).export_onnx(tmp_path/'onnx')
    (tmp_path/'here').mkdir()
    Image.new('RGB', (64, 64), 'blue').save(tmp_path/'blue.png')
    paths = [os.path.join(tmp_path, 'here', f'{name[:100]}.png') for name in FILES.values()]
    for path in paths: shutil.copy(tmp_path/'blue.png', path)
    (tmp_path/'onnx'/'json.py').write_text('open("EXECUTED", "w")')  # beside the script, where Python looks first
    done = subprocess.run([sys.executable, home/'score.py', *paths, tmp_path/'none\nat all.png'], capture_output=True,
                          cwd=tmp_path, env=os.environ | dict(PYTHONUTF8='0', LC_ALL='C'))
    lines = done.stdout.decode('ascii', 'replace').split('\n')
    assert (done.returncode, len(lines) - 1) == (1, len(paths)) and b'Traceback' not in done.stderr
    assert all(len(line.split('\t')) == 6 for line in lines[:-1]) and b'\r' not in done.stdout
    origin_line, missing_line = done.stderr.decode().splitlines()
    assert missing_line.endswith('none\\nat all.png: there is no such image file')
    assert not (tmp_path/'EXECUTED').exists()


def test_exported_script_with_damaged_folders(hostile, tmp_path):
    home = hostile.export_onnx(tmp_path/'onnx')
    Image.new('RGB', (64, 64), 'blue').save(tmp_path/'blue.png')

    def said():
        done = subprocess.run([sys.executable, home/'score.py', tmp_path/'blue.png'], capture_output=True, text=True)
        return done.returncode, done.stderr
    status, text = said()
    assert status == 0 and text.count('\n') == 1 and 'no threshold: nothing was decided' in text
    about = (home/'detector.json').read_text(encoding='utf-8')
    changed = [about.replace(f'"{key}"', '"other"') for key in ('files', 'threshold', 'orient', 'resize')]
    for damage in ('', '[]', 'null', '{', '{"files": []}', '{"files": {}}', about[:200], *changed):
        (home/'detector.json').write_text(damage, encoding='utf-8')
        status, text = said()
        assert status == 2 and text.count('\n') == 1 and 'detector.json is damaged' in text
    (home/'detector.json').write_text(about, encoding='utf-8')
    (home/'detector.onnx').unlink()
    status, text = said()
    assert status == 2 and text.count('\n') == 1 and 'detector.onnx' in text


@pytest.mark.parametrize('name', ['deed.py', 'conftest.py', 'clip/deed.py', '__init__.py', 'detector.bin',
                                  'synthetic/deed.py', 'config.json', 'sub/detector.json', '.hidden'])
def test_a_folder_with_other_files_is_refused(name, folder):
    (folder/name).parent.mkdir(exist_ok=True)
    (folder/name).write_text('raise SystemExit')
    with pytest.raises(ValueError, match='no part of a detector') as error: OODDetector.load(folder)
    assert str(folder) in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize('name', ['detector.json', 'detector.safetensors'])
def test_a_link_is_refused(name, folder, tmp_path):
    shutil.move(folder/name, tmp_path/name)
    (folder/name).symlink_to(tmp_path/name)
    with pytest.raises(ValueError, match='which is a link'): OODDetector.load(folder)


def test_a_changed_file_is_noticed(folder, tmp_path):
    other = OODDetector.from_names(['cat', 'house'], 'mini')
    other.save(tmp_path/'other')
    replace(other, text=other.text[::-1].copy()).save(tmp_path/'turned')
    # it fits, and is wrong
    shutil.copy(tmp_path/'turned'/'detector.safetensors', tmp_path/'other'/'detector.safetensors')
    with pytest.raises(ValueError, match='detector.safetensors is not the file that was saved with it'):
        OODDetector.load(tmp_path/'other')
    for name in ('README.md', '.gitattributes', '.DS_Store'): (folder/name).write_text('text')
    (folder/'.git').mkdir()
    assert OODDetector.load(folder).names


def test_its_own_network_comes_along_without_what_lies_beside_it(tmp_path):
    shutil.copytree(embedded_model_folder('clip'), tmp_path/'network')
    (tmp_path/'network'/'LICENSE').write_text('')
    (tmp_path/'network'/'README.md').write_text('')
    detector = OODDetector.from_names(['cat', 'house'], get_scale('mini').replace(clip=(str(tmp_path/'network'),)))
    detector.save(tmp_path/'detector')
    assert not (tmp_path/'detector'/'clip'/'LICENSE').exists()
    assert OODDetector.load(tmp_path/'detector').clip_hash == load_clip((str(tmp_path/'network'),)).hash
    assert str(tmp_path) not in str(detector.generate_model_card())


@pytest.mark.skipif(os.name != 'posix', reason='modes are those of posix')
def test_others_may_read_it(hostile, tmp_path):
    usual = os.umask(0o022)
    try: hostile.save(tmp_path/'detector')
    finally: os.umask(usual)
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path/'detector').iterdir()} == {0o644}


def test_publishing_offline_is_one_line(hostile, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(OSError, match='^me/cats was not published: ') as error: hostile.push_to_hub('me/cats')
    assert len(str(error.value).splitlines()) == 1
    for name in ('nowhere', '../x', 'a/b/c', 'hf-hub:', 'x y/z', ''):
        with pytest.raises(FileNotFoundError, match='no such folder, and no id'):
            OODDetector.from_pretrained(name or 'hf://')


def test_word_lists_are_encoded_once(tmp_path, monkeypatch):
    import synood.models.clip as clip_module
    monkeypatch.setenv('SYNOOD_CACHE', str(tmp_path/'kept'))
    monkeypatch.setattr(synood.detector.labels, 'MANY_WORDS', 10)
    asked, real = [], clip_module._encode_batch

    def counted(clip, prompts):
        asked.append(len(prompts))
        return real(clip, prompts)
    monkeypatch.setattr(clip_module, '_encode_batch', counted)
    first = OODDetector.from_names(['cat', 'house'], 'mini')
    assert len(asked) > 2 and list((tmp_path/'kept').glob('*.safetensors'))
    asked.clear()
    assert (OODDetector.from_names(['cat', 'house'], 'mini').negatives == first.negatives).all() and not asked
    monkeypatch.setattr(synood.detector.labels, 'MANY_WORDS', 10**9)
    assert (OODDetector.from_names(['cat', 'house'], 'mini').negatives == first.negatives).all() and sum(asked) > 100
