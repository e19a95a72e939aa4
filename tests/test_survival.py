"""Killed at any moment, or shared by two processes, a run ends in the same bytes.

Each worker is a fork of this process, so that ten of them cost ten runs and not ten imports of torch.
"""
import os
import random
import signal
import time

import pytest
import torch

from synood.benchmark import experiment
from synood.finetuning import SynOOD
from synood.runs import folder_hash, merge_rows
from synood.scores import NegLabel

CELLS = [NegLabel(), SynOOD(), SynOOD(images='text', training='projection')]


def work(root):
    "The whole road at `smoke`: images, selection, contexts, synthesis, tuning, rows."
    torch.set_num_threads(1)
    experiment('survival', CELLS, 'smoke', (0,), root, ablation=True)


def fork(root):
    "Start a worker; its exit status is 0 when it came to the end."
    pid = os.fork()
    if pid: return pid
    status = 1
    try:
        with open(root/f'log-{os.getpid()}', 'w') as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            work(root/'runs')
        status = 0
    except BaseException as e:
        (root/f'error-{os.getpid()}').write_text(repr(e))
    finally: os._exit(status)


def finish(pid, root):
    "Wait for a worker that must succeed."
    _, status = os.waitpid(pid, 0)
    errors = [p.read_text() for p in root.glob('error-*')]
    assert status == 0, errors


def outcome(root):
    "What must not depend on the way: every finished folder's content, and the rows."
    folders = {p.parent.relative_to(root/'runs').as_posix(): folder_hash(p.parent)
               for p in sorted((root/'runs').rglob('manifest.json'))}
    assert any('/synthesis/' in f for f in folders)
    return folders, merge_rows(root/'runs', 'smoke').to_csv(index=False)


def leftovers(root):
    "Unfinished folders and temporary files of the stages."
    return [p for p in (root/'runs'/'smoke').rglob('*') if '.tmp-' in p.name or p.name.endswith('.part')]


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp('undisturbed')
    started = time.time()
    finish(fork(root), root)
    return outcome(root), time.time() - started


def test_ten_kills_change_no_byte(undisturbed, tmp_path):
    expected, seconds = undisturbed
    moments = random.Random(7)
    killed = 0
    for _ in range(10):
        pid = fork(tmp_path)
        time.sleep(moments.uniform(.02, .35)*seconds)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
    assert killed >= 3, 'the workers were done before they could be killed'
    finish(fork(tmp_path), tmp_path)
    assert outcome(tmp_path) == expected
    assert not leftovers(tmp_path)


def test_two_processes_share_a_run(undisturbed, tmp_path):
    expected, _ = undisturbed
    pids = [fork(tmp_path) for _ in range(2)]
    for pid in pids: finish(pid, tmp_path)
    assert outcome(tmp_path) == expected
    assert not leftovers(tmp_path)


def test_a_finished_run_makes_nothing(undisturbed, tmp_path, monkeypatch):
    work(tmp_path/'runs')
    made = [p for p in (tmp_path/'runs').rglob('*') if p.suffix in {'.png', '.safetensors', '.jsonl'} or p.name == 'manifest.json']
    rows = [p for p in (tmp_path/'runs'/'smoke'/'rows').rglob('*.csv')]
    times = {p: p.stat().st_mtime_ns for p in made + rows}
    assert len(times) > 300
    monkeypatch.setattr('synood.benchmark.evaluate', lambda *a: pytest.fail('evaluated again'))
    monkeypatch.setattr('synood.synthesis.synthesise', lambda *a: pytest.fail('synthesised again'))
    work(tmp_path/'runs')
    assert times == {p: p.stat().st_mtime_ns for p in times}
