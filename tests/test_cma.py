"""CMA's training in several processes and through sudden ends: the same network as in one process, undisturbed."""
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from synood.runs import embedded_folder

TRAINING = '''
import sys
from dataclasses import replace
from pathlib import Path
import torch
from accelerate import PartialState
from synood.cma import start_tuning, tune
from synood.features import load_clip, save_clip
from synood.images import open_sets
from synood.runs import run_stage
from synood.scales import get_scale

folder, clip_id, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
state = PartialState(cpu=True)
scale = replace(get_scale('smoke'), name='tiny', n_train=1, n_test=10, cma_lr=1e-5, cma_batch=7, cma_chunk=4, cma_epochs=2,
                cma_warmup=1, clip=(clip_id,))
with state.main_process_first():
    images = open_sets(run_stage('images', scale, (0,), folder/'runs')[0])['train']
clip = load_clip(scale.clip)
course = tune(start_tuning(clip, scale), clip, images, scale, 0, folder/'checkpoint.safetensors', seconds)
print(state.num_processes, 'processes', len(course.losses), 'steps', flush=True)
if state.is_main_process:
    (folder/'done').mkdir()
    save_clip(course.model, scale.clip, folder/'done')
state.wait_for_everyone()
'''


@pytest.fixture
def script(tmp_path):
    path = tmp_path/'training.py'
    path.write_text(TRAINING)
    return path


def command(script, folder, clip_id, seconds=60, processes=1):
    folder.mkdir(exist_ok=True)
    launch = [sys.executable]
    if processes > 1: launch += ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes)]
    return [*launch, str(script), str(folder), clip_id, str(seconds)]


def weights(folder):
    return load_file(folder/'done'/'open_clip_model.safetensors')


def test_two_processes_train_the_same_network_as_one(script, tmp_path):
    for processes in (1, 2):
        done = subprocess.run(command(script, tmp_path/str(processes), 'embedded:clip-vit', processes=processes),
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f'{processes} processes 6 steps' in done.stdout  # 20 images: batches of 7, 7 and 6
    alone, together = (weights(tmp_path/str(processes)) for processes in (1, 2))
    before = load_file(embedded_folder('clip-vit')/'open_clip_model.safetensors')
    for key in alone: np.testing.assert_allclose(together[key], alone[key], atol=1e-5)
    whole = [np.concatenate([weights[key].ravel() for key in sorted(alone)]) for weights in (before, alone, together)]
    assert np.linalg.norm(whole[2] - whole[1]) < .02*np.linalg.norm(whole[1] - whole[0]) > 0


def test_killed_at_any_step_it_ends_in_the_same_bits(script, tmp_path):
    run = command(script, tmp_path/'straight', 'embedded:clip-small', 0)
    assert subprocess.run(run, capture_output=True).returncode == 0
    folder, draw = tmp_path/'killed', random.Random(0)
    for _ in range(2):
        process = subprocess.Popen(command(script, folder, 'embedded:clip-small', 0), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        checkpoint = folder/'checkpoint.safetensors'
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before): time.sleep(.005)
        time.sleep(draw.random()*.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder/'done').exists(), 'it had already ended: nothing was killed'
    done = subprocess.run(command(script, folder, 'embedded:clip-small', 0), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    straight, resumed = weights(tmp_path/'straight'), weights(folder)
    assert all((straight[key] == resumed[key]).all() for key in straight)
