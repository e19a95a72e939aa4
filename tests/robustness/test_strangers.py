"""What a stranger hands over: detectors that would fill the memory, names that steer a terminal, pipes."""
import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from synood.app.cli import main
from synood.detector import OODDetector
from synood.data.images import read_user_text

STEERS = 'a\x1b[31m\x1b]0;title\x07\u202eb'


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp('kept')/'detector'
    OODDetector.from_names(['cat', 'house', 'tree'], 'mini').save(folder)
    return folder


def said(capfd, *arguments):
    "(status, stdout, stderr) of a command, run in this process."
    with pytest.raises(SystemExit) as end: main([str(a) for a in arguments])
    return end.value.code or 0, *capfd.readouterr()


def changed(kept, folder, **entries):
    "A copy of a detector, other entries in its detector.json."
    shutil.copytree(kept, folder)
    about = json.loads((folder/'detector.json').read_text(encoding='utf-8'))
    (folder/'detector.json').write_text(json.dumps(about | entries), encoding='utf-8')
    return folder


@pytest.mark.parametrize('entries', [
    dict(learner=dict(name='nft', width=16, hidden=10**12)), dict(learner=dict(name='nft', width=10**12)),
    dict(learner=dict(name='nft', width=10**400)), dict(learner=dict(name='nft', kind='csc', classes=10**13)),
    dict(learner=dict(name='nft', width=-1)), dict(residual=True), dict(groups=10**400),
    dict(method='\x1b[31m'), dict(method='x'*1000)], ids=lambda entries: str(entries)[:60])
def test_settings_of_a_stranger_take_no_memory(kept, tmp_path, entries):
    with pytest.raises(ValueError, match='damaged') as error: OODDetector.load(changed(kept, tmp_path/'odd', **entries))
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 700


@pytest.mark.parametrize('part', ['detector.json', 'detector.safetensors'])
@pytest.mark.parametrize('kind', ['pipe', 'device'])
def test_a_detector_of_what_never_ends_is_refused(kept, tmp_path, part, kind):
    folder = tmp_path/'odd'
    shutil.copytree(kept, folder)
    (folder/part).unlink()
    if kind == 'pipe': os.mkfifo(folder/part)
    else: (folder/part).symlink_to('/dev/zero')
    with pytest.raises((ValueError, FileNotFoundError), match='no detector|which is'): OODDetector.load(folder)


def test_no_error_steers_a_terminal(kept, tmp_path, capfd):
    odd = tmp_path/STEERS
    shutil.copytree(kept, tmp_path/f'{STEERS}.detector')
    (tmp_path/f'{STEERS}.toml').write_text('synthesis.sampler = 3')
    (tmp_path/'photos'/f'{STEERS}-class').mkdir(parents=True)
    Image.new('RGB', (16, 16)).save(tmp_path/'photos'/f'{STEERS}-class'/f'{STEERS}.png')
    (tmp_path/'photos'/f'{STEERS}-class'/f'{STEERS}.psd').write_bytes(b'8BPS')
    (tmp_path/'photos'/'none').mkdir()
    for command in (['score', odd, '--detector', kept], ['score', tmp_path/'photos', '--detector', odd],
                    ['fit', odd, '--out', tmp_path/'x'], ['fit', tmp_path/'photos', '--out', tmp_path/'x'],
                    ['fit', '--names', odd, '--out', tmp_path/'x'],
                    ['fit', '--names', kept/'detector.json', '--method', STEERS, '--out', tmp_path/'x'],
                    ['export', odd, '--out', tmp_path/'x'], ['report', '--scale', 'smoke', '--root', odd],
                    ['report', '--scale', tmp_path/f'{STEERS}.toml'],
                    ['verify', odd], ['verify', '--root', odd], ['run', STEERS], ['run', 'images', '--scale', STEERS],
                    ['demo', odd],
                    ['reproduce', '--only', STEERS], ['pretrain', STEERS]):
        status, out, err = said(capfd, *command)
        assert status == 2 and err.count('\n') == 1, (command, out, err)
        assert not set('\x1b\x07\u202e') & set(out + err), (command, out, err)


def test_no_folder_that_is_missing_steers_a_terminal(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr('synood.app.doctor.check_tables', lambda *scale: [])  # this and the next take a while
    monkeypatch.setattr('synood.app.doctor.planned', lambda scale: None)
    status, out, err = said(capfd, 'doctor', '--data', tmp_path/STEERS)
    assert status == 1 and 'no such folder' in out
    assert not set('\x1b\x07\u202e') & set(out + err)


def test_no_result_steers_a_terminal(kept, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr('synood.app.doctor.check_tables', lambda *args: [])
    place = tmp_path/STEERS
    place.mkdir()
    Image.new('RGB', (16, 16)).save(place/f'{STEERS}.png')
    Image.new('RGB', (16, 16)).save(place/f'{STEERS}2.png', exif=b'Exif\0\0II*\0\x08\0\0\0\x01')
    (place/f'{STEERS}.psd').write_bytes(b'8BPS')
    (tmp_path/'names.txt').write_text('cat\nhouse\ntree\n')
    for command in (['score', place, '--detector', kept, '--out', place/'t.csv'], ['verify', '--root', place],
                    ['run', 'images', '--scale', 'smoke', '--root', place/'runs'],
                    ['doctor', '--scale', 'smoke', '--root', place, '--no-check-images'],
                    ['fit', '--names', tmp_path/'names.txt', '--out', place/'made', '--root', place/'runs']):
        status, out, err = said(capfd, *command)
        assert status == 0 and not set('\x1b\x07\u202e') & set(out + err.replace('\x1b[A', '')), (command, out, err)


def test_a_terminal_gets_a_table_that_does_not_steer_it(kept, tmp_path):
    Image.new('RGB', (16, 16)).save(tmp_path/f'{STEERS}.png')
    pty = pytest.importorskip('pty')
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, '-m', 'synood', 'score', tmp_path, '--detector', kept], stdout=theirs,
                   stderr=subprocess.DEVNULL, check=True)
    os.close(theirs)
    shown = os.read(ours, 2**16).decode()
    assert r'a\x1b[31m\x1b]0;title\x07\u202eb.png' in shown and '\x1b' not in shown and shown.count('\n') == 2


def test_names_may_come_through_a_pipe(tmp_path, capfd):
    for text, classes in (('cat\nhouse\n', 2), ('a1\tcat\nb2\thouse\nc3\ttree\n', 3)):
        end, start = os.pipe()
        os.write(start, text.encode())
        os.close(start)
        status, out, err = said(capfd, 'fit', '--names', f'/dev/fd/{end}', '--out', tmp_path/str(classes), '--root',
                                tmp_path/'runs', '--json')
        assert (status, json.loads(out)['classes']) == (0, classes), err
        os.close(end)
    os.mkfifo(tmp_path/'bytes')
    writer = subprocess.Popen(['sh', '-c', f"printf '\\377' > '{tmp_path}/bytes'"])
    with pytest.raises(ValueError, match='not a text in UTF-8'): read_user_text(tmp_path/'bytes')
    writer.wait()


def test_a_report_of_nothing_leaves_nothing(tmp_path, capfd):
    for root in (tmp_path/'runs', tmp_path/'other', tmp_path):
        assert said(capfd, 'report', '--scale', 'smoke', '--root', root)[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_trained_learner_is_kept_whole(kept, tmp_path):
    from dataclasses import replace
    from synood.methods.krnft import NFTAdapter
    plain = OODDetector.load(kept)
    for kind, rows in (('binary', {}), ('csc', dict(classes=3, negatives=len(plain.negative_names)))):
        learner = NFTAdapter(plain.text.shape[1], 1200, kind, **rows)
        replace(plain, learner=learner).save(tmp_path/kind)
        assert OODDetector.load(tmp_path/kind).learner.settings == learner.settings
