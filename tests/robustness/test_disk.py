"""A disk that is full or cannot be written to: one line that names the folder, and status 2.

The same command goes on from there once there is room."""
import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import synood
from synood.app.cli import main
from synood.outliers.context import load_context_model
from synood.models.classifier import load_classifier
from synood.core.files import folder_hash
from synood.core.stages import run_stage
from synood.core.scales import get_scale
from synood.outliers.synthesis import inpainting_model

SCALE = 'base = "smoke"\nname = "tiny"\nn_train = 1\n[synthesis]\nsteps = 2\nstrength = 1.0\nbatch_size = 10\n'


@pytest.fixture(scope='module')
def place():
    "A folder that other users may enter, unlike pytest's."
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder/'tiny.toml').write_text(SCALE)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope='module')
def world(place):
    "The rendered world, for every run here to start from."
    torch.set_num_threads(1)
    scale = get_scale(str(place/'tiny.toml'))
    load_classifier(scale.classifier)  # this and the next two for all workers
    inpainting_model(scale)
    load_context_model(scale.context_model)
    return run_stage('world', scale, (0,), place/'first')[0].parent


def begun(root, world):
    (root/'tiny').mkdir(parents=True)
    shutil.copytree(world, root/'tiny'/'world')
    return root


def command(place, root, stage='synthesis', prepare=lambda: None):
    "Status and the lines on standard error of `synood run` in a fork of this process."
    stderr = place/'stderr'
    stderr.write_text('')
    if not (pid := os.fork()):
        sys.stdout = sys.stderr = open(stderr, 'w')  # and not pytest's
        status = 99
        try:
            # before any thread of this fork: torch repairs its own pool here, and not in two of them at once
            torch.set_num_threads(1)
            prepare()
            main(['run', stage, '--scale', str(place/'tiny.toml'), '--root', str(root)])
        except SystemExit as e: status = e.code or 0
        except BaseException as e: print('not caught:', repr(e), file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), stderr.read_text().splitlines()


def outcome(root):
    assert not [p for p in root.rglob('*') if '.tmp-' in p.name or p.name.endswith(('.part', '.parts'))]
    return {p.parent.relative_to(root).as_posix(): folder_hash(p.parent) for p in root.rglob('manifest.json')}


@pytest.fixture(scope='module')
def expected(place, world):
    status, printed = command(place, begun(place/'expected', world))
    assert status == 0, printed
    return outcome(place/'expected')


def refused(status, printed, root, why):
    "The command ended with one line that says where and why."
    ours = [line for line in printed if line.startswith('synood: ')]
    assert status == 2 and ours == printed[-1:], printed
    assert not any('Traceback' in line for line in printed), printed
    assert str(root) in ours[0] and why in ours[0] and 'the same command goes on from there' in ours[0], ours


def full_after(root, number, tally=None):
    "This process is told that the disk is full, from the `number`-th time on that it writes or renames below `root`."
    count, below = 0, str(root)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event, args):
        nonlocal count
        if event not in ('open', 'os.rename', 'os.mkdir') or not str(args[0]).startswith(below): return
        if event == 'open' and not (isinstance(args[2], int) and args[2] & writing): return
        count += 1
        if tally: tally.write_text(str(count))
        elif count >= number: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    sys.addaudithook(hook)


def fills(place, world, expected, shares):
    tally = place/'tally'
    root = begun(place/'counted', world)
    status, printed = command(place, root, prepare=lambda: full_after(root, 0, tally))
    assert status == 0 and outcome(root) == expected, printed
    shutil.rmtree(root)
    total = int(tally.read_text())
    assert total > 40
    for share in shares:
        root = begun(place/'full', world)
        status, printed = command(place, root, prepare=lambda: full_after(root, 1 + int(share*total)))
        refused(status, printed, root, 'No space left on device: free some space there')
        assert not [p for p in root.rglob('*') if '.tmp-' in p.name], 'an error is no kill: it tidies up'
        status, printed = command(place, root)
        assert status == 0 and outcome(root) == expected, printed
        shutil.rmtree(root)


def test_a_disk_that_fills_up(place, world, expected): fills(place, world, expected, [.6])


@pytest.mark.slow
def test_a_disk_that_fills_up_at_any_moment(place, world, expected):
    fills(place, world, expected, [k/12 for k in range(12)])


@pytest.fixture
def small_disk(place):
    "A file system of its own, to be made larger, smaller or read-only by `disk(options)`."
    folder = place/'disk'
    folder.mkdir()
    why = 'there is no mount'
    if shutil.which('mount'):
        done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', str(folder)],
                              capture_output=True, text=True)
        why = done.returncode and done.stderr.strip()
    if why:
        folder.rmdir()
        pytest.skip(f'a file system cannot be mounted here: {why}')
    yield folder, lambda options: subprocess.run(['mount', '-o', f'remount,{options}', str(folder)], check=True)
    subprocess.run(['umount', str(folder)], check=True)
    folder.rmdir()


def test_a_real_disk_that_is_full_or_read_only(place, world, expected, small_disk):
    disk, remount = small_disk
    root = begun(disk/'runs', world)
    status, printed = command(place, root, 'contexts')  # so that it fills up in the middle of pictures
    assert status == 0, printed
    room = os.statvfs(disk)
    remount(f'size={(room.f_blocks - room.f_bfree)*room.f_frsize + 60_000}')
    refused(*command(place, root), root, 'No space left on device')
    assert not [p for p in root.rglob('*') if '.tmp-' in p.name]
    remount('size=64m')
    remount('ro')
    refused(*command(place, root), root, 'Read-only file system: make it writable or choose another root')
    remount('rw')
    status, printed = command(place, root)
    assert status == 0 and outcome(root) == expected, printed


def nobody():
    "Give up root's rights, for good."
    if os.getuid(): return
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    os.environ['HOME'] = '/nonexistent'
    needed = Path(synood.__file__).parent/'assets'/'world.json', Path(torch.__file__)
    if not all(os.access(file, os.R_OK) for file in needed): os._exit(77)


def test_a_folder_of_someone_else(place, world):
    root = begun(place/'theirs', world)
    writable = {p: stat.S_IMODE(p.stat().st_mode) for p in [root, *root.rglob('*')] if p.is_dir()}
    for p in writable: p.chmod(0o555)
    try: status, printed = command(place, root, 'selection', nobody)
    finally:
        for p in writable: p.chmod(0o777)
    if status == 77: pytest.skip('without the rights of root this installation cannot be read')
    refused(status, printed, root, 'Permission denied: make it writable or choose another root')
    status, printed = command(place, root, 'selection', nobody)
    assert status == 0 and any('/selection/' in name for name in outcome(root)), printed
    nowhere = place/'locked'
    nowhere.mkdir(mode=0o555)
    status, printed = command(place, nowhere/'runs', 'selection', nobody)
    refused(status, printed, nowhere, 'Permission denied')
