"""CMA's training in several processes and through sudden ends: the same network as in one process, undisturbed."""
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from synood.core.files import embedded_model_folder

TRAINING = '''
import os, signal, sys
from pathlib import Path
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from synood.methods import cma
from synood.models.clip import load_clip, save_clip
from synood.data.images import read_sets
from synood.core.stages import run_stage
from synood.core.scales import get_scale

folder, clip_id, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
epochs, killed_in = map(int, sys.argv[4:])
state, steps, real_step = PartialState(cpu=True), 0, cma.contrastive_step

def counted(model, *args):
    global steps
    loss, steps = real_step(model, *args), steps + 1
    if steps == killed_in: os.kill(os.getpid(), signal.SIGKILL)
    if steps == 2 and state.is_main_process:  # a step of seven images
        gradients = {name: p.grad.contiguous().clone() for name, p in model.named_parameters()}
        save_file(gradients, folder/'gradients.safetensors')
    return loss

cma.contrastive_step = counted
quick = dict(lr=1e-5, batch_size=7, chunk_size=4, epochs=epochs, warmup_steps=1)
scale = get_scale('smoke').replace(name='tiny', n_train=1, n_test=10, cma=quick, clip=(clip_id,))
with state.main_process_first():
    images = read_sets(run_stage('images', scale, (0,), folder/'runs')[0])['train']
clip = load_clip(scale.clip)
course = cma.train_cma(cma.start_cma(clip, scale), clip, images, scale, 0, folder/'checkpoint.safetensors', seconds)
if state.is_main_process:
    print(state.num_processes, 'processes', steps, 'of', len(course.losses), 'steps', flush=True)
    (folder/'done').mkdir()
    save_clip(course.model, scale.clip, folder/'done')
state.wait_for_everyone()
'''
ALONE = {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}


@pytest.fixture
def script(tmp_path):
    path = tmp_path/'training.py'
    path.write_text(TRAINING)
    return path


def command(script, folder, clip_id, seconds=60, epochs=2, killed_in=0, processes=1):
    folder.mkdir(exist_ok=True)
    launch = [sys.executable]
    if processes > 1: launch += ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes)]
    return [*launch, *map(str, (script, folder, clip_id, seconds, epochs, killed_in))]


def run(*args, **kwargs):
    "What it printed; it must come to its end."
    done = subprocess.run(command(*args, **kwargs), capture_output=True, text=True, env=os.environ | ALONE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def weights(folder):
    return load_file(folder/'done'/'open_clip_model.safetensors')


def test_two_processes_train_the_same_network_as_one(script, tmp_path):
    for processes in (1, 2):  # 20 images: batches of 7, 7 and 6
        printed = run(script, tmp_path/str(processes), 'embedded:clip-vit', processes=processes)
        assert f'{processes} processes 6 of 6 steps' in printed
    one, two = (load_file(tmp_path/processes/'gradients.safetensors') for processes in '12')
    assert one['logit_scale'] != 0
    for name in one: np.testing.assert_allclose(two[name], one[name], atol=1e-5*max(1, np.abs(one[name]).max()))
    alone, together = (weights(tmp_path/processes) for processes in '12')
    before = load_file(embedded_model_folder('clip-vit')/'open_clip_model.safetensors')
    for key in alone: np.testing.assert_allclose(together[key], alone[key], atol=1e-5)
    assert max(np.abs(alone[key] - before[key]).max() for key in alone) > 3e-5


def test_killed_at_any_step_it_ends_in_the_same_bits(script, tmp_path):
    settings = ('embedded:clip-small', 0, 6)
    assert ' 18 of 18 steps' in run(script, tmp_path/'straight', *settings)
    folder, draw = tmp_path/'killed', random.Random(0)
    killed_in = [draw.randint(2, 9) for _ in range(2)]  # the steps before it are kept
    for step in killed_in:
        killed = subprocess.run(command(script, folder, *settings, step), env=os.environ | ALONE, capture_output=True)
        assert killed.returncode == -signal.SIGKILL and not (folder/'done').exists(), killed.stderr
    left = 18 - sum(step - 1 for step in killed_in)
    assert f' {left} of 18 steps' in run(script, folder, *settings)
    straight, resumed = weights(tmp_path/'straight'), weights(folder)
    assert all((straight[key] == resumed[key]).all() for key in straight)
