"""Killed at any moment, or shared by two processes, a run ends in the same bytes, and makes nothing twice that stood.

Each worker is a fork of this process, so that sixty of them cost sixty starts of a stage and not sixty imports of torch. It notes in a journal
which phase it is in and what it makes; it is killed from outside at a random moment of a phase, or by itself at a random file operation of it.
"""
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
import torch

from synood.models import features
from synood.outliers import finetuning, synthesis
from synood.core import runs, training
from synood.evaluation.benchmark import experiment
from synood.methods.cma import CMA
from synood.outliers.context import load_lister
from synood.models.features import load_classifier, load_clip
from synood.outliers.finetuning import SynOOD
from synood.methods.krnft import KRNFT
from synood.core.runs import file_hash, folder_hash, merge_rows
from synood.core.scales import get_scale
from synood.scores.method import NegLabel
from synood.outliers.synthesis import painter_of
from synood.methods.vos import VOS

# Autograd sets up its threads here, when tests are collected: a later export to ONNX registers a device with torch,
# and threads for devices forbid every fork to train.
torch.ones(1, requires_grad=True).sum().backward()

SMOKE = get_scale('smoke')
QUICK = replace(SMOKE, steps=2, strength=1.)  # for the tests that run every time
CELLS = [NegLabel(), SynOOD(), SynOOD(images='text', training='projection')]
TRAINED = [KRNFT(), CMA(), VOS()]
WHOLE = f'*/cache/{"?"*64}.safetensors'  # features, written under a temporary name that is to go
PHASES = {'synthesis': 'synthesis', 'textimages': 'synthesis', 'krnft_views': 'views', 'cma': 'cma', 'vos': 'vos'}  # stage -> phase


def work(root, cells=CELLS, scale=QUICK):
    "The whole road at `smoke`: images, selection, contexts, synthesis, tuning, rows."
    torch.set_num_threads(1)  # before any thread of this fork: torch repairs its own pool here, and not in two of them at once
    experiment('survival', cells, scale, (0,), root, ablation=True)


class Journal:
    "What the workers of a run did: lines 'begin PHASE', 'end PHASE' and 'make KEY', written whole, whoever is killed."
    def __init__(self, path): self.path = path

    def note(self, line):
        with open(self.path, 'ab', 0) as f: f.write(f'{os.getpid()} {line}\n'.encode())

    def lines(self, pid=None):
        if not self.path.exists(): return []
        return [rest for owner, rest in (line.split(' ', 1) for line in self.path.read_text().splitlines()) if pid in (None, int(owner))]

    def phase(self, pid):
        "The innermost phase that a worker was in last."
        inside = []
        for line in self.lines(pid):
            what, name = line.split(' ', 1)
            if what == 'begin': inside.append(name)
            if what == 'end': inside.remove(name)
        return inside[-1] if inside else 'other'

    def made(self): return [line[5:] for line in self.lines() if line.startswith('make ')]


def watched(journal, function, phase=None, key=None):
    "The function, with its phase and what it makes noted; `key` may be None for calls that make nothing."
    def call(*args, **kwargs):
        named = phase(*args) if callable(phase) else phase
        if named: journal.note(f'begin {named}')
        if key and (name := key(*args)): journal.note(f'make {name}')
        try: return function(*args, **kwargs)
        finally:
            if named: journal.note(f'end {named}')
    return call


def slowly(function, seconds):
    "What is over in a moment lasts long enough to be hit."
    def call(*args, **kwargs):
        time.sleep(seconds)
        return function(*args, **kwargs)
    return call


def watch(journal):
    "Have this process note phases and makings; it will not live long."
    stage = lambda st, scale, seed, final, *rest: PHASES.get(st.name)
    synthesis.synthesise = watched(journal, synthesis.synthesise, key=lambda painter, classifier, pixels, prompts, names, *rest: f'grad {names[0]}')
    synthesis.paint = watched(journal, synthesis.paint, key=lambda painter, prompts, names, *rest: f'text {names[0]}')
    runs._make = watched(journal, runs._make, stage)
    whole = features._make_whole
    def make_whole(final, ranges, make, about):
        return whole(final, ranges, watched(journal, slowly(make, .02), key=lambda rows: f'features {final.stem} {rows.start//features.BATCH:05d}'), about)
    features._make_whole = watched(journal, make_whole, 'features')
    finetuning.update = slowly(finetuning.update, .02)
    for name in ('train_projection', 'train_labels'): setattr(finetuning, name, watched(journal, getattr(finetuning, name), 'tuning'))
    def checkpoint(course, path, *rest):
        journal.note(f'make step {path.parent.name} {len(course.losses)}')
        time.sleep(.03)
        course.save(path)
    training.FineTuning.checkpoint = checkpoint  # after every step


def die_writing(journal, phase, number):
    "End this process, without a chance to tidy up, at its `number`-th file operation in a phase, or, if that is a pattern, when a file is to get such a name."
    count, pid = 0, os.getpid()
    def hook(event, args):
        nonlocal count
        if event not in ('open', 'os.rename', 'os.mkdir', 'os.remove', 'os.rmdir') or os.getpid() != pid: return
        if event == 'open' and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or str(args[0]).endswith('journal'): return
        if journal.phase(pid) != phase: return
        count += 1
        if count == number or (event == 'os.rename' and isinstance(number, str) and fnmatch(str(args[1]), number)): os.kill(pid, signal.SIGKILL)
    sys.addaudithook(hook)


def fork(root, cells=CELLS, scale=QUICK, prepare=lambda: None):
    "Start a worker; its exit status is 0 when it came to the end."
    pid = os.fork()
    if pid: return pid
    status = 1
    try:
        with open(root/f'log-{os.getpid()}', 'w') as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            prepare()
            work(root/'runs', cells, scale)
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
    "What must not depend on the way: every finished folder's content, the features, and the rows."
    folders = {p.parent.relative_to(root/'runs').as_posix(): folder_hash(p.parent) for p in sorted((root/'runs').rglob('manifest.json'))}
    assert any('/synthesis/' in f or '/cma/' in f for f in folders)
    arrays = {p.name: file_hash(p) for p in sorted((root/'runs'/'cache').glob('*.safetensors'))}
    return folders, arrays, merge_rows(root/'runs', 'smoke').to_csv(index=False)


def leftovers(root):
    "Unfinished folders and temporary files, wherever they are."
    return [p for p in (root/'runs').rglob('*') if '.tmp-' in p.name or p.name.endswith(('.part', '.parts', '.in.ipynb'))]


def standing(root):
    "Keys of the makings whose result is there: of batches by their first image, of features by file and part."
    first = lambda records: json.loads(records.read_text().split('\n')[0])['path']
    found = {f'{kind} {first(p)}' for kind, name in (('grad', 'synthesis'), ('text', 'textimages'))
             for p in (root/'runs'/'smoke'/name).glob('seed0-*/[0-9]*[0-9]/records.jsonl') if '.tmp-' not in p.parent.name}
    for p in (root/'runs'/'cache').glob('*.parts/*[0-9].safetensors'): found.add(f'features {p.parent.stem} {p.stem}')
    return found, {p.stem for p in (root/'runs'/'cache').glob('*.safetensors')}



class Chase:
    "A run that is killed again and again, and what was seen of it."
    def __init__(self, root, worlds, cells, scale, draw):
        self.root, self.draw, self.cells, self.scale = root, draw, cells, scale
        self.journal, self.kills, self.seen = Journal(root/'journal'), Counter(), 0
        if worlds: shutil.copytree(worlds, root/'runs'/'smoke'/'world')  # five seconds each, and not what is killed here

    def start(self, *prepare):
        def begin():
            watch(self.journal)
            for step in prepare: step()
        return fork(self.root, self.cells, self.scale, begin)

    def kill(self, phase, at_file, longest):
        "Kill a worker in a phase, `at_file`: at that file operation of it, see `die_writing`, True: at a random one; False if it came to its end without a kill."
        number, met = self.draw.randint(1, 16) if at_file is True else at_file, None
        pid = self.start(*[lambda: die_writing(self.journal, phase, number)]*bool(at_file))
        while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if not at_file and met is None and f'begin {phase}' in self.journal.lines(pid): met = time.time() + self.draw.uniform(0, longest)
            if met and time.time() >= met: os.kill(pid, signal.SIGKILL); met = None; done = os.waitpid(pid, 0); break
            time.sleep(.002)
        if os.WIFSIGNALED(done[1]): self.kills[self.journal.phase(pid)] += 1
        else: assert done[1] == 0, [p.read_text() for p in self.root.glob('error-*')]
        self.check()
        return os.WIFSIGNALED(done[1])

    def check(self):
        "Nothing that stood when the last worker ended was made by the next one."
        made = self.journal.made()
        for key in made[self.seen:]:
            assert key not in self.stood[0] and key.split(' ')[1] not in self.stood[1], f'{key} stood and was made again'
        self.seen, self.stood = len(made), standing(self.root)

    stood = set(), set()

    def end(self, expected):
        finish(self.start(), self.root)
        self.check()
        assert outcome(self.root) == expected
        assert not leftovers(self.root)
        makings, kills = Counter(self.journal.made()), sum(self.kills.values())
        assert sum(makings.values()) <= len(makings) + kills
        return SimpleNamespace(kinds=Counter(key.split(' ')[0] for key in makings), made=sum(makings.values()), planned=len(makings))


def chase(expected, place, worlds, cells, scale, plan, draw, longest):
    "Kill through a plan of (phase, at a file operation) in run after run; the kills by phase, and makings and plan of each run."
    plan, kills, ends, number = list(plan), Counter(), [], 0
    while plan:
        (root := place/str(number)).mkdir()
        run, number = Chase(root, worlds, cells, scale, draw), number + 1
        for target in list(plan[:18]):  # some of each phase, in their order; the rest for the next run
            if run.kill(*target, longest[target[0]]): plan.remove(target)
        ends.append(run.end(expected))
        kills += run.kills
        shutil.rmtree(root)
        assert number < 12, f'{len(plan)} kills never came: {plan}'
    return kills, ends


def straight(place, cells, scale):
    started = time.time()
    finish(fork(place, cells, scale), place)
    assert not leftovers(place)
    return SimpleNamespace(outcome=outcome(place), seconds=time.time() - started, world=place/'runs'/'smoke'/'world')


@pytest.fixture(scope='module')
def warm():
    "Networks that every worker inherits."
    torch.set_num_threads(1)
    load_clip(SMOKE.clip); load_classifier(SMOKE.classifier); painter_of(SMOKE); load_lister(SMOKE.lister)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, warm): return straight(tmp_path_factory.mktemp('undisturbed'), CELLS, QUICK)


def test_ten_kills_change_no_byte(undisturbed, tmp_path):
    plan = [('features', WHOLE), ('features', False), ('features', True), *[('synthesis', False)]*2, *[('synthesis', True)]*2, *[('tuning', False)]*3]
    kills, _ = chase(undisturbed.outcome, tmp_path, undisturbed.world, CELLS, QUICK, plan, random.Random(7), dict(features=.1, synthesis=.6, tuning=.05))
    assert {'features', 'synthesis', 'tuning'} <= set(kills) and sum(kills.values()) == len(plan)


@pytest.mark.slow
def test_fifty_kills_change_no_byte_and_make_nothing_twice(tmp_path, warm, record_property):
    (tmp_path/'straight').mkdir()
    whole = straight(tmp_path/'straight', CELLS, SMOKE)
    a_run = [('features', WHOLE), *[('features', False)]*3, *[('features', True)]*2] + [('synthesis', False)]*5 + [('synthesis', True)]*3 + [('tuning', False)]*4
    plan = a_run*2 + [('features', False), ('features', True), *[('synthesis', False)]*5, *[('synthesis', True)]*3, *[('tuning', False)]*4]
    kills, ends = chase(whole.outcome, tmp_path, whole.world, CELLS, SMOKE, plan, random.Random(11), dict(features=.1, synthesis=2., tuning=.05))
    print(f'kills {dict(kills)}, runs {len(ends)}, makings {[(e.made, e.planned) for e in ends]}, {dict(ends[0].kinds)}')
    assert sum(kills.values()) == len(plan) == 50 and min(kills[phase] for phase in ('features', 'synthesis', 'tuning')) >= 5
    assert all(e.kinds['grad'] == e.kinds['text'] == SMOKE.m//SMOKE.batch and e.kinds['features'] > 8 for e in ends)


@pytest.mark.slow
def test_trainings_with_checkpoints_survive_kills(tmp_path, warm):
    (tmp_path/'straight').mkdir()
    scale = replace(SMOKE, cma_epochs=3, vos_epochs=10)
    whole = straight(tmp_path/'straight', TRAINED, scale)
    plan = [(phase, at_file) for phase in ('views', 'cma', 'vos') for at_file in (False, False, True, False, True)]
    kills, ends = chase(whole.outcome, tmp_path, whole.world, TRAINED, scale, plan, random.Random(5), dict(views=1., cma=.8, vos=.5))
    print(f'kills {dict(kills)}, runs {len(ends)}, makings {[(e.made, e.planned) for e in ends]}, {dict(ends[0].kinds)}')
    assert sum(kills.values()) == len(plan) and min(kills[phase] for phase in ('views', 'cma', 'vos')) >= 2
    assert all(e.kinds['step'] == 22 for e in ends)  # 3 epochs of 4 batches, 10 of one


def test_two_processes_share_a_run(undisturbed, tmp_path):
    shutil.copytree(undisturbed.world, tmp_path/'runs'/'smoke'/'world')
    pids = [fork(tmp_path) for _ in range(2)]
    for pid in pids: finish(pid, tmp_path)
    assert outcome(tmp_path) == undisturbed.outcome
    assert not leftovers(tmp_path)


def test_a_finished_run_makes_nothing(undisturbed, tmp_path, monkeypatch):
    shutil.copytree(undisturbed.world.parent.parent, tmp_path/'runs')
    made = [p for p in (tmp_path/'runs').rglob('*') if p.suffix in {'.png', '.safetensors', '.jsonl'} or p.name == 'manifest.json']
    rows = [p for p in (tmp_path/'runs'/'smoke'/'rows').rglob('*.csv')]
    times = {p: p.stat().st_mtime_ns for p in made + rows}
    assert len(times) > 300
    monkeypatch.setattr('synood.evaluation.benchmark.evaluate', lambda *a: pytest.fail('evaluated again'))
    monkeypatch.setattr('synood.outliers.synthesis.synthesise', lambda *a: pytest.fail('synthesised again'))
    work(tmp_path/'runs')
    assert times == {p: p.stat().st_mtime_ns for p in times}
