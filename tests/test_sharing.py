"""Processes of one launcher share the work, and leave the same bytes as one process."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from synood.runs import folder_hash

SCALE = 'base = "smoke"\nname = "tiny"\nn_train = 1\nsteps = 2\nstrength = 1.0\nbatch = 2\n'
LAUNCHER = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']


@pytest.fixture
def scale(tmp_path):
    path = tmp_path/'tiny.toml'
    path.write_text(SCALE)
    return path


def run(root, scale, *launcher):
    "Finished folders of a run and what is in them."
    done = subprocess.run([sys.executable, *launcher, '-m', 'synood', 'run', 'synthesis', '--scale', str(scale), '--root', str(root)],
                          env=os.environ | {'OMP_NUM_THREADS': '1'}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not [p for p in root.rglob('*') if '.tmp-' in p.name or p.name.endswith(('.part', '.parts'))]
    return {p.parent.relative_to(root).as_posix(): folder_hash(p.parent) for p in root.rglob('manifest.json')}


def test_two_processes_write_what_one_writes(tmp_path, scale):
    alone, together = run(tmp_path/'alone', scale), run(tmp_path/'together', scale, *LAUNCHER)
    assert alone == together and any('/synthesis/' in name for name in alone)


FEATURES = '''
import os, sys, time
from pathlib import Path
import numpy as np
from synood import features
features.BATCH = 2
def squares(rows):
    time.sleep(.2)
    with open(sys.argv[2], 'a') as made: made.write(f'{rows.start} {os.getpid()}\\n')
    return {'square': np.array([[r**2] for r in rows])}
found = features.cached(Path(sys.argv[1]), {'of': 'squares'}, 21, squares)['square'].ravel()
assert found.tolist() == [r**2 for r in range(21)]
'''


def test_two_processes_share_features(tmp_path):
    (tmp_path/'work.py').write_text(FEATURES)
    done = subprocess.run([sys.executable, *LAUNCHER, str(tmp_path/'work.py'), str(tmp_path/'cache'), str(tmp_path/'made')],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    starts, makers = zip(*(line.split() for line in (tmp_path/'made').read_text().splitlines()))
    assert sorted(map(int, starts)) == list(range(0, 21, 2)) and len(set(makers)) == 2  # each once, by two
    assert len([p for p in (tmp_path/'cache').rglob('*') if p.is_file()]) == 1


SRUN = '''#!/usr/bin/env bash
shift
export SLURM_NTASKS=2
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & SLURM_PROCID=1 SLURM_LOCALID=1 "$@"
wait $!
'''


def test_the_script_for_a_cluster(root, tmp_path, scale):
    (tmp_path/'bin').mkdir()
    (tmp_path/'bin'/'srun').write_text(SRUN)
    (tmp_path/'bin'/'srun').chmod(0o755)
    path = os.pathsep.join([str(tmp_path/'bin'), str(Path(sys.executable).parent), os.environ['PATH']])
    done = subprocess.run([str(root/'tools'/'slurm_synthesis.sh')], capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | dict(PATH=path, SCALE=str(scale), STAGE='contexts', ROOT=str(tmp_path/'runs'), OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('seed 0: ') == 2 and len(list((tmp_path/'runs'/'tiny'/'contexts').glob('*/*/contexts.jsonl'))) == 1  # 20 pictures are one batch
