"""Work on a cluster of simulated machines: the bytes of one process, also when a machine is lost in the middle."""
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import torch
import typer
import yaml

from chat_server import KEY, on, serving
from logged_stages import LOG, LoggedMCM, note
from synood.app.cli import app
from synood.core import cluster as core_cluster
from synood.core.cluster import CLUSTER, TaskPool, _packed, call_once, connected, map_in_order, map_parts
from synood.core.files import folder_hash
from synood.core.scales import get_scale
from synood.core.stages import run_stage, stages
from synood.data.images import read_sets, run_blocks
from synood.detector import OODDetector
from synood.models import cache
from synood.models.cache import PixelInput
from synood.models.classifier import classifier_pass, load_classifier
from synood.methods.coop import CoCoOp
from synood.models.clip import clip_passes, load_clip
from synood.scores.method import NegLabel
from synood.evaluation.benchmark import experiment

TINY = get_scale('smoke').replace(n_train=1, synthesis=dict(steps=2, strength=1., batch_size=2))
MACHINES = 3
TESTS = Path(__file__).resolve().parent.parent  # where workers find modules of tests
# A machine that tests share is slow to answer, and not lost.
PATIENT = dict(RAY_agent_register_timeout_ms='600000', RAY_gcs_server_request_timeout_seconds='600',
               RAY_health_check_timeout_ms='120000', RAY_enable_metrics_collection='0')
PORTS = 'metrics_agent_port', 'metrics_export_port', 'dashboard_agent_listen_port', 'runtime_env_agent_port'


def free_port():
    with socket.socket() as s:
        s.bind(('', 0))
        return s.getsockname()[1]


def small(**more):
    "A simulated machine."
    ports = {name: free_port() for name in PORTS}
    return dict(include_dashboard=False, object_store_memory=160*2**20, include_log_monitor=False, **ports, **more)


def variables():
    "Of the environment of every process of Ray."
    paths = [str(TESTS/'light'), str(TESTS), os.environ.get('PYTHONPATH', '')]
    return PATIENT | dict(PYTHONPATH=os.pathsep.join(paths))


def patiently(start):
    "What `start()` returns. Ray gives a machine that starts a quarter of a minute, too little on a busy computer."
    import psutil
    us = psutil.Process()
    for _ in range(9):
        before = us.children(recursive=True)
        try: return start()
        except Exception as e: print(f'again: {e}')
        for process in set(us.children(recursive=True)) - set(before): process.kill()
    return start()


@contextmanager
def machines(count, first=0, **resources):
    "A Ray cluster of `count` simulated machines of a core each, and one with `first` cores, which is not lost."
    ray = pytest.importorskip('ray', reason="Ray is not installed: pip install 'synood[cluster]'")
    from ray.cluster_utils import Cluster
    os.environ |= variables()
    found = patiently(lambda: Cluster(initialize_head=True, head_node_args=small(num_cpus=first, no_monitor=True)))
    try:
        for _ in range(count): add_machine(found, **resources)
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


def add_machine(lab, **more): patiently(lambda: lab.add_node(**small(num_cpus=1, **more)))


@pytest.fixture(scope='module')
def lab():
    with machines(MACHINES) as found: yield found


def busy_machines(lab):
    "The machines of a cluster on which a worker is at work, but for the first."
    import psutil
    for node in lab.list_all_nodes():
        raylet = psutil.Process(node.all_processes['raylet'][0].process.pid)
        calls = [p for p in raylet.children() if re.search('ray::(_call|_Actor)', ' '.join(p.cmdline()))]
        if calls and node is not lab.head_node: yield node


@contextmanager
def one_lost(lab, made, log):
    """Inside the block one machine that works is taken away when `made()` names two things that are made.

    Yields two lists: the things that stood by then with the numbers of their files, and the lines of `log` by then.
    Another machine comes afterwards."""
    stood, begun = [], []
    def take():
        while len(made()) < 2 or not (busy := list(busy_machines(lab))): time.sleep(.02)
        stood.extend((path, path.stat().st_ino) for path in made())
        lab.remove_node(busy[-1], allow_graceful=False)
        begun.extend(log.read_text().split())
    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    yield stood, begun
    thread.join(5)
    assert begun, 'no machine was lost: the work was done too soon'
    add_machine(lab)


def check_log(log, parts, stood, begun):
    """No part was lost, and none was begun twice but those in the hands of workers when a machine was lost.

    log: a line for every part that was begun; stood: the parts that stood when the machine was lost; begun: the lines
    of the log by then."""
    counts = Counter(log.read_text().split())
    again = {part for part, count in counts.items() if count > 1}
    assert set(counts) == set(parts) and max(counts.values()) <= 2
    assert again <= set(begun) - set(stood) and len(again) <= MACHINES


def finished(root):
    "Finished folders below a root, what is in them and which networks made them; there must be no others."
    assert not [p for p in root.rglob('*') if '.tmp-' in p.name or p.name.endswith(('.part', '.parts'))]
    found = {p.parent: json.loads(p.read_text()).get('models') for p in root.rglob('manifest.json')}
    return {folder.relative_to(root).as_posix(): (folder_hash(folder), models) for folder, models in found.items()}


def test_a_process_without_a_cluster_imports_no_ray():
    code = 'import sys, synood.app.cli, synood.evaluation.benchmark; sys.exit("ray" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


@pytest.fixture
def log(tmp_path, monkeypatch):
    "The file in which parts of the work are noted when they are begun."
    monkeypatch.setenv(LOG, str(tmp_path/'log'))
    return tmp_path/'log'


@pytest.mark.slow
def test_a_machine_is_lost_in_the_middle_of_synthesis(lab, tmp_path, log):
    run_stage('logged_synthesis', TINY, root=tmp_path/'alone')
    parts = log.read_text().split()
    log.unlink()
    root = tmp_path/'together'
    def made(): return [p for p in root.glob('smoke/logged_synthesis/*.part/*') if p.name.isdigit()]
    with connected(lab.address), one_lost(lab, made, log) as (stood, begun):
        run_stage('logged_synthesis', TINY, root=root)
    assert finished(root) == finished(tmp_path/'alone')
    check_log(log, parts, [path.name for path, _ in stood], begun)
    for path, number in stood:  # not made again
        assert (path.parent.with_suffix('')/path.name).stat().st_ino == number


@pytest.mark.slow
def test_a_machine_is_lost_in_the_middle_of_features(lab, tmp_path, monkeypatch, log):
    monkeypatch.setattr(cache, 'BATCH', 2)
    images = read_sets(run_stage('images', TINY, root=tmp_path/'runs')[0])['train']  # 20
    pixels = PixelInput(load_clip(TINY.clip), images, tmp_path/'together')
    def forward(batch, seconds=0.):
        note(f'{batch.double().sum().item()!r}')
        time.sleep(seconds)
        return {'mean': batch.mean((1, 2, 3))}
    def slowly(batch): return forward(batch, .5)
    alone = replace(pixels, cache=tmp_path/'alone').forward_cached(forward, 'mean')
    parts = log.read_text().split()  # one after the other
    log.unlink()
    assert len(set(parts)) == 10
    def made(): return list((tmp_path/'together').glob('*.parts/*.safetensors'))
    with connected(lab.address), one_lost(lab, made, log) as (stood, begun):
        together = pixels.forward_cached(slowly, 'mean')
    np.testing.assert_array_equal(together['mean'], alone['mean'])
    names = {p.name: p.read_bytes() for p in (tmp_path/'alone').glob('*.safetensors')}
    assert names == {p.name: p.read_bytes() for p in (tmp_path/'together').glob('*.safetensors')}
    check_log(log, parts, [parts[int(path.stem)] for path, _ in stood], begun)


@pytest.mark.slow
def test_a_machine_is_lost_in_the_middle_of_a_fit(lab, tmp_path, log):
    scale = TINY.replace(coop=dict(shots=1, epochs=60))
    run_stage('logged_fit', scale, root=tmp_path/'alone')
    assert log.read_text().split() == ['begun', 'ended']
    log.unlink()
    run_stage('images', scale, root=tmp_path/'together')
    root = tmp_path/'together'
    def made(): return [log]*2 if log.exists() else []  # it has begun
    with connected(lab.address), one_lost(lab, made, log): run_stage('logged_fit', scale, root=root)
    assert finished(root) == finished(tmp_path/'alone')
    assert log.read_text().split() == ['begun', 'begun', 'ended']


@pytest.mark.slow
def test_rows_are_made_by_tasks_that_ask_for_stages(lab, tmp_path, monkeypatch, log):
    scale, cells = TINY.replace(n_test=10, coop=dict(shots=1)), [LoggedMCM(), NegLabel(groups=1), CoCoOp()]
    rows = {}
    for place in ('alone', 'together'):
        (tmp_path/place).mkdir()
        monkeypatch.chdir(tmp_path/place)  # tables are written beside the runs
        with connected(lab.address if place == 'together' else ''):
            rows[place] = experiment('toy', cells, scale, (0, 1))
    assert len(rows['alone']) == 3*2*5
    pd.testing.assert_frame_equal(rows['alone'], rows['together'])
    assert finished(tmp_path/'alone') == finished(tmp_path/'together')
    assert log.read_text().split() == ['fitted']*2  # once in each place, as nothing is drawn


@pytest.mark.slow
def test_a_server_is_asked_for_all_by_one_worker_that_holds_nothing(lab, tmp_path, monkeypatch):
    import ray
    class Holder:
        def ready(self): return True
    monkeypatch.setenv('OPENAI_API_KEY', KEY)  # the machines were started without it
    monkeypatch.setenv('SYNOOD_REQUESTS_PER_MINUTE', '600')
    with serving() as server:
        scale = on(server).replace(block=20)
        assert len(run_blocks('contexts', scale, (0,), tmp_path/'alone')[0]) == 2
        run_blocks('selection', scale, (0,), tmp_path/'together')
        server.times.clear()
        with connected(lab.address):
            holders = [ray.remote(num_cpus=1)(Holder).remote() for _ in range(MACHINES)]
            assert all(ray.get([holder.ready.remote() for holder in holders]))  # no core is left
            run_blocks('contexts', scale, (0,), tmp_path/'together')
    assert len(server.times) == 40 and server.times[-1] - server.times[0] > 3.5  # 100 ms apart, whoever asks
    assert finished(tmp_path/'alone') == finished(tmp_path/'together')
    for folder in (tmp_path, Path(lab.head_node.get_session_dir_path())):  # what Ray writes about its work, too
        files = [path for path in folder.rglob('*') if path.is_file()]
        assert files and not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.slow
def test_reproduce_runs_notebooks_on_the_cluster(lab, tmp_path):
    line = [sys.executable, '-m', 'synood', 'reproduce', '--scale', 'smoke', '--only', 'negatives', '--root', 'runs']
    for more in [['--cluster', lab.address], []]:  # here the second one finds what the first has made
        done = subprocess.run([*line, *more], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert ('nothing has changed' if not more else 'ran') in done.stdout
    assert [name for name in finished(tmp_path/'runs') if '/negatives/' in name]
    assert CLUSTER not in os.environ


@contextmanager
def ray_start():
    "The environment of a user who has called `ray start --head`; Ray finds that cluster by a file in RAY_TMPDIR."
    import psutil
    pytest.importorskip('ray', reason="Ray is not installed: pip install 'synood[cluster]'")
    with TemporaryDirectory(prefix='ray-', ignore_cleanup_errors=True) as home:  # a short path: Ray has sockets there
        ours = {name: value for name, value in os.environ.items() if name != 'RAY_ADDRESS'} | variables()
        ours |= dict(RAY_TMPDIR=home, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
        line = [sys.executable, '-m', 'ray.scripts.scripts', 'start', '--head', '--num-cpus=2', '--block',
                f'--port={free_port()}', '--include-dashboard=false', '--object-store-memory', str(160*2**20)]
        end = time.time() + 300
        head = psutil.Popen(line, env=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not (Path(home)/'ray'/'ray_current_cluster').exists():
                assert head.poll() is None and time.time() < end
                time.sleep(.2)
            yield ours
        finally:
            started = [head, *head.children(recursive=True)]
            for process in started: process.terminate()
            for process in psutil.wait_procs(started, 10)[1]: process.kill()


@pytest.mark.slow
def test_auto_is_the_cluster_that_a_user_has_started(tmp_path):
    OODDetector.from_names(['cat', 'cow'], 'smoke').save(tmp_path/'detector')
    known = run_stage('world', get_scale('smoke'), (0,), tmp_path/'known')[0]
    with ray_start() as ours:
        def said(*arguments):
            line = [sys.executable, '-m', 'synood', *map(str, arguments)]
            done = subprocess.run(line, cwd=tmp_path, env=ours, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout
        for place, more in dict(alone=[], together=['--cluster', 'auto']).items():
            said('run', 'contexts', '--scale', 'smoke', '--root', place, *more)
            said('score', known, '--detector', 'detector', '--batch', '8', '--out', f'{place}.csv', *more)
        workers = [*Path(ours['RAY_TMPDIR']).glob('ray/session_latest/logs/worker-*.out')]
    assert len(workers) >= 2  # of that cluster
    assert finished(tmp_path/'alone') == finished(tmp_path/'together')
    assert (tmp_path/'alone.csv').read_bytes() == (tmp_path/'together.csv').read_bytes()


def asking():
    "A function that says how much of a resource Ray has given to the worker that calls it."
    def given(what='memory'):
        import ray
        return ray.get_runtime_context().get_assigned_resources().get(what)
    return given


def test_a_cluster_of_one_machine(tmp_path, monkeypatch):
    def refuse(part): raise ValueError(f'no {part}')
    def find(): core_cluster.findings['revisions'] = dict(toy='abc')
    monkeypatch.setenv('SYNOOD_TASK_GB', '.001')
    run_stage('selection', TINY, root=tmp_path/'alone')
    with machines(0, first=1) as lab, connected(lab.address):
        run_stage('selection', TINY, root=tmp_path/'together')
        assert list(map_in_order(lambda k: k**2, range(5))) == [(k, k**2) for k in range(5)]
        assert call_once(max, {'a': (1, 2), 'b': (4, 3)}) == {'a': 2, 'b': 4}
        with pytest.raises(ValueError, match='^no 3$'): list(map_parts(refuse, [3]))  # as if it had been met here
        with TaskPool() as pool: assert pool.submit(max, 5, 6).result() == 6
        call_once(find, {'a': ()})
        assert call_once(asking(), {'a': ()}) == {'a': 1e6}
        assert core_cluster.findings.pop('revisions') == dict(toy='abc')  # what a worker found
    assert finished(tmp_path/'alone') == finished(tmp_path/'together')


@pytest.mark.slow
def test_workers_with_a_gpu_get_what_other_cores_have_loaded():
    def load(part): return part, os.getpid(), os.environ['CUDA_VISIBLE_DEVICES']
    def make(part, loaded): return part == loaded[0], os.getpid() == loaded[1], loaded[2], gpu()
    def gpu(): return os.environ['CUDA_VISIBLE_DEVICES']
    with machines(2, num_gpus=1) as lab, connected(lab.address):
        assert {told for _, told in map_in_order(make, range(6), load=load)} == {(True, False, '', '0')}
        assert call_once(gpu, {'a': ()}, gpus=0.) == {'a': ''}
        assert {share for _, share in map_parts(asking(), ['GPU']*6, gpus=.25)} == {.25}
        assert {size > 0 for _, size in map_parts(asking(), ['memory']*2, gpus=.25)} == {True}


@pytest.mark.slow
def test_without_gpus_a_worker_loads_its_own():
    def make(part, loaded): return part, os.getpid() == loaded
    with machines(1) as lab, connected(lab.address):
        assert list(map_in_order(make, range(2), load=lambda part: os.getpid())) == [(0, (0, True)), (1, (1, True))]


def test_a_network_goes_to_the_device_of_who_reads_it(monkeypatch):
    pytest.importorskip('ray', reason="Ray is not installed: pip install 'synood[cluster]'")
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    numbers = torch.ones(2)
    packed = _packed(lambda: (network, network.forward, numbers))
    monkeypatch.setattr(core_cluster, '_place', lambda: 'meta')  # another one than the CPU, on every machine
    read, forward, found = pickle.loads(packed)()
    assert {x.device.type for x in [*read.parameters(), *read.buffers()]} == {'meta'}
    assert forward.__self__ is read and found.device.type == 'cpu'
    assert {x.device.type for x in network.parameters()} == {'cpu'}


def test_what_has_a_name_travels_as_its_name():
    pytest.importorskip('ray', reason="Ray is not installed: pip install 'synood[cluster]'")
    clip, head = load_clip(('embedded:clip',)), load_classifier(('embedded:classifier',))
    passes = pickle.loads(packed := _packed([*clip_passes(clip, 'image', 'patch'), classifier_pass(head)]))
    assert [one.network for one in passes] == [clip, clip, head] and len(packed) < 10_000
    changed = replace(clip, logit_scale=1.)  # which no id gives
    assert pickle.loads(packed := _packed(changed)).logit_scale == 1 and len(packed) > 100_000
    assert pickle.loads(_packed(stages['coop'])) is stages['coop']


def test_what_only_a_notebook_knows_is_one_line():
    pytest.importorskip('ray', reason="Ray is not installed: pip install 'synood[cluster]'")
    with pytest.raises(TypeError, match='^this cannot be sent to the workers of a cluster: .*Move it to a module'):
        _packed(threading.Lock())


def test_a_mistake_is_one_line(tmp_path):
    pytest.importorskip('ray', reason="Ray is not installed: pip install 'synood[cluster]'")
    done = subprocess.run([sys.executable, '-m', 'synood', 'run', 'images', '--scale', 'smoke', '--root', tmp_path,
                           '--cluster', '127.0.0.1:1'], capture_output=True, text=True)
    assert done.returncode == 2 and 'no Ray cluster answers' in done.stderr, done.stderr
    assert done.stderr.count('\n') == 1


@pytest.mark.parametrize('name', ['slurm.sh', 'kuberay.yaml'])
def test_examples_give_commands_that_there_are(root, name):
    known = typer.main.get_command(app).commands
    found = re.findall(r'\bsynood (doctor|fetch-models|reproduce)\b(.*)', (root/'tools'/name).read_text())
    for command, words in found:
        options = {option for parameter in known[command].params for option in parameter.opts}
        assert set(re.findall(r'(?<!\w)--[a-z-]+', words)) <= options
    assert [command for command, _ in found] == ['doctor', 'fetch-models', 'reproduce']  # and nothing is paid before
    assert [command for command, words in found if '--cluster' in words] == ['reproduce']


def test_the_manifest_is_a_job_of_kuberay(root):
    job = yaml.safe_load((root/'tools'/'kuberay.yaml').read_text())
    groups = [job['spec']['rayClusterSpec']['headGroupSpec'], *job['spec']['rayClusterSpec']['workerGroupSpecs']]
    assert (job['apiVersion'], job['kind'], len(groups)) == ('ray.io/v1', 'RayJob', 2)
    assert 'synood doctor' not in job['spec']['entrypoint']  # it needs no GPU
    assert 'synood fetch-models --scale paper --yes' in (root/'tools'/'kuberay.yaml').read_text()
    for group in groups:  # every pod sees what `reproduce` reads and writes
        container, = group['template']['spec']['containers']
        assert [mount['mountPath'] for mount in container['volumeMounts']] == ['/shared']
        assert {entry['name'] for entry in container['env']} == {'HF_HOME', 'HF_HUB_OFFLINE'}


PROGRAMS = dict(
    scontrol='echo first; echo second', synood='echo "synood $*"', srun='shift; exec "$@"',
    ray='[ $1 = get-auth-token ] && exit; echo "ray $1 $2 $3 $4 $5"; while [ "$1" != -- ]; do shift; done; shift; "$@"')


def test_the_script_for_slurm_starts_a_cluster_and_hands_it_the_work(root, tmp_path):
    (tmp_path/'bin').mkdir()
    (tmp_path/'bin'/'activate').touch()
    for name, text in PROGRAMS.items():
        (tmp_path/'bin'/name).write_text(f'#!/usr/bin/env bash\n{text}\n')
        (tmp_path/'bin'/name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path/'bin'), os.environ['PATH']])
    told = dict(PATH=path, VENV=str(tmp_path), SCALE='paper', DATA='/data sets', ROOT='runs',
                SLURM_JOB_NODELIST='n[1-2]', SLURM_JOB_NUM_NODES='2')
    done = subprocess.run([str(root/'tools'/'slurm.sh')], capture_output=True, text=True, env=os.environ | told)
    assert done.stdout.splitlines() == ['ray symmetric-run --address first:6379 --min-nodes 2',
                                        'synood reproduce --scale paper --data /data sets --root runs --cluster auto']
