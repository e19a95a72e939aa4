"""Killed at any moment, or shared by two processes, a run ends in the same bytes, and makes nothing twice that stood.

Each worker is a fork of this process, so that sixty of them cost sixty starts of a stage and not sixty imports of
torch. It notes in a journal which phase it is in and what it makes; it is killed at a random moment of a phase, or at a
random file operation of it.
"""
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
import torch

from synood.models import cache
from synood.outliers import finetuning, synthesis
from synood.core import stages, training
from synood.evaluation.benchmark import experiment
from synood.methods.cma import CMA
from synood.outliers.context import load_context_model
from synood.models.classifier import load_classifier
from synood.models.clip import load_clip
from synood.outliers.finetuning import SynOOD
from synood.methods.krnft import KRNFT
from synood.core.files import file_hash, folder_hash
from synood.core.rows import merge_rows
from synood.core.scales import get_scale
from synood.scores.method import NegLabel
from synood.outliers.synthesis import inpainting_model
from synood.methods.vos import VOS

# Autograd sets up its threads here, when tests are collected: a later export to ONNX registers a device with torch,
# and threads for devices forbid every fork to train.
torch.ones(1, requires_grad=True).sum().backward()

SMOKE = get_scale('smoke')
QUICK = SMOKE.replace(synthesis=dict(steps=2, strength=1.))  # for the tests that run every time
CELLS = [NegLabel(), SynOOD(), SynOOD(images='text', training='projection')]
TRAINED = [KRNFT(), CMA(), VOS()]
WHOLE = f'*/cache/{"?"*64}.safetensors'  # features, written under a temporary name that is to go
# stage -> phase
PHASES = {'synthesis': 'synthesis', 'textimages': 'synthesis', 'krnft_views': 'views', 'cma': 'cma', 'vos': 'vos'}


def work(root, cells=CELLS, scale=QUICK):
    "The whole road at `smoke`: images, selection, contexts, synthesis, tuning, rows."
    # before any thread of this fork: torch repairs its own pool here, and not in two of them at once
    torch.set_num_threads(1)
    experiment('survival', cells, scale, (0,), root, ablation=True)


class Journal:
    "What the workers of a run did: lines 'begin PHASE', 'end PHASE' and 'make KEY', written whole, whoever is killed."
    def __init__(self, path):
        self.path = path

    def note(self, line):
        with open(self.path, 'ab', 0) as f: f.write(f'{os.getpid()} {line}\n'.encode())

    def lines(self, pid=None):
        if not self.path.exists(): return []
        notes = [line.split(' ', 1) for line in self.path.read_text().splitlines()]
        return [text for owner, text in notes if pid in (None, int(owner))]

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
    def phase_of(stage, *rest): return PHASES.get(stage.name)
    def first_picture(painter, classifier, pixels, prompts, names, *rest): return f'grad {names[0]}'
    def first_text_picture(painter, prompts, names, *rest): return f'text {names[0]}'
    synthesis.synthesise = watched(journal, synthesis.synthesise, key=first_picture)
    synthesis.text_to_image = watched(journal, synthesis.text_to_image, key=first_text_picture)
    stages._make = watched(journal, stages._make, phase_of)
    cache._make_whole = watched(journal, noting_parts(journal, cache._make_whole), 'features')
    for name in ('train_projection', 'train_labels'):
        setattr(finetuning, name, watched(journal, getattr(finetuning, name), 'tuning'))
    training.optimiser_step = slowly(training.optimiser_step, .02)

    def checkpoint(course, path, *rest):
        if path is None: return  # the tuning of SynOOD begins anew
        journal.note(f'make step {path.parent.name} {len(course.losses)}')
        time.sleep(.03)
        course.save(path)
    training.TrainState.save_if_due = checkpoint  # after every step


def noting_parts(journal, make_whole):
    "`cache._make_whole`, with every part of the features noted that is made."
    def noted(final, ranges, make, about, load):
        def part_of(rows, *loaded): return f'features {final.stem} {rows.start//cache.BATCH:05d}'
        return make_whole(final, ranges, watched(journal, slowly(make, .02), key=part_of), about, load)
    return noted


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def die_writing(journal, phase, number):
    """End this process, without a chance to tidy up, at its `number`-th file operation in a phase.

    If `number` is a pattern: when a file is to get such a name."""
    count, pid = 0, os.getpid()

    def writes(event, args):
        "Whether an event changes files other than the journal."
        if event not in ('open', 'os.rename', 'os.mkdir', 'os.remove', 'os.rmdir') or os.getpid() != pid: return False
        if event != 'open': return True
        return isinstance(args[2], int) and args[2] & WRITING and not str(args[0]).endswith('journal')

    def hook(event, args):
        nonlocal count
        if not writes(event, args) or journal.phase(pid) != phase: return
        count += 1
        named = event == 'os.rename' and isinstance(number, str) and fnmatch(str(args[1]), number)
        if count == number or named: os.kill(pid, signal.SIGKILL)
    sys.addaudithook(hook)


def die_later(journal, phase, seconds):
    """End this process, without a chance to tidy up, so many seconds after a phase began, unless the phase is over.

    The alarm is the process's own: one who watches from outside may be late."""
    note = journal.note
    def noted(line):
        if line == f'end {phase}': signal.setitimer(signal.ITIMER_REAL, 0)
        note(line)
        if line == f'begin {phase}': signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends the process
    journal.note = noted


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
    finally:
        os._exit(status)


def finish(pid, root):
    "Wait for a worker that must succeed."
    _, status = os.waitpid(pid, 0)
    errors = [p.read_text() for p in root.glob('error-*')]
    assert status == 0, errors


def outcome(root):
    "What must not depend on the way: every finished folder's content, the features, and the rows."
    finished = [manifest.parent for manifest in sorted((root/'runs').rglob('manifest.json'))]
    folders = {folder.relative_to(root/'runs').as_posix(): folder_hash(folder) for folder in finished}
    assert any('/synthesis/' in name or '/cma/' in name for name in folders)
    arrays = {p.name: file_hash(p) for p in sorted((root/'runs'/'cache').glob('*.safetensors'))}
    return folders, arrays, merge_rows(root/'runs', 'smoke').to_csv(index=False)


def leftovers(root):
    "Unfinished folders and temporary files, wherever they are."
    return [path for path in (root/'runs').rglob('*')
            if '.tmp-' in path.name or path.name.endswith(('.part', '.parts', '.in.ipynb'))]


def standing(root):
    "Keys of the makings whose result is there: of batches by their first image, of features by file and part."
    parts = set()
    for kind, stage in (('grad', 'synthesis'), ('text', 'textimages')):
        for records in (root/'runs'/'smoke'/stage).glob('seed0-*/[0-9]*[0-9]/records.jsonl'):
            if '.tmp-' in records.parent.name: continue
            first = json.loads(records.read_text().split('\n')[0])['path']
            parts.add(f'{kind} {first}')
    for file in (root/'runs'/'cache').glob('*.parts/*[0-9].safetensors'):
        parts.add(f'features {file.parent.stem} {file.stem}')
    whole = {file.stem for file in (root/'runs'/'cache').glob('*.safetensors')}
    return parts, whole


class Chase:
    "A run that is killed again and again, and what was seen of it."
    def __init__(self, root, worlds, cells, scale, draw):
        self.root = root
        self.draw = draw
        self.cells = cells
        self.scale = scale
        self.journal = Journal(root/'journal')
        self.kills = Counter()
        self.n_seen = 0
        self.stood = set(), set()
        if worlds: shutil.copytree(worlds, root/'runs'/'smoke'/'world')  # five seconds each, and not killed here

    def start(self, *prepare):
        def begin():
            watch(self.journal)
            for step in prepare: step()
        return fork(self.root, self.cells, self.scale, begin)

    def kill(self, phase, at_file, longest):
        """Kill a worker in a phase; False if it came to its end without a kill.

        `at_file`: at that file operation of it, see `die_writing`; True: at a random one; False: at a random moment,
        at most `longest` seconds after the phase began, see `die_later`."""
        number = self.draw.randint(1, 16) if at_file is True else at_file
        seconds = self.draw.uniform(.001, longest)
        pid = self.start(lambda: die_writing(self.journal, phase, number) if at_file
                         else die_later(self.journal, phase, seconds))
        status = os.waitpid(pid, 0)[1]
        killed = os.WIFSIGNALED(status)
        if killed: self.kills[self.journal.phase(pid)] += 1
        else: assert status == 0, [p.read_text() for p in self.root.glob('error-*')]
        self.check()
        return killed

    def check(self):
        "Nothing that stood when the last worker ended was made by the next one."
        parts, whole = self.stood
        made = self.journal.made()
        for key in made[self.n_seen:]:
            assert key not in parts and key.split(' ')[1] not in whole, f'{key} stood and was made again'
        self.n_seen = len(made)
        self.stood = standing(self.root)

    def end(self, expected):
        finish(self.start(), self.root)
        self.check()
        assert outcome(self.root) == expected
        assert not leftovers(self.root)
        makings = Counter(self.journal.made())
        kinds = Counter(key.split(' ')[0] for key in makings)
        assert sum(makings.values()) <= len(makings) + sum(self.kills.values())
        return SimpleNamespace(kinds=kinds, made=sum(makings.values()), planned=len(makings))


def chase(expected, place, worlds, cells, scale, plan, draw, longest):
    """Kill through a plan of (phase, at a file operation) in run after run.

    The kills by phase, and makings and plan of each run."""
    plan = list(plan)
    kills = Counter()
    ends = []
    number = 0
    while plan:
        root = place/str(number)
        root.mkdir()
        run = Chase(root, worlds, cells, scale, draw)
        number += 1
        for target in list(plan[:18]):  # some of each phase, in their order; the rest for the next run
            if run.kill(*target, longest[target[0]]): plan.remove(target)
        ends.append(run.end(expected))
        kills += run.kills
        shutil.rmtree(root)
        assert number < 12, f'{len(plan)} kills never came: {plan}'
    return kills, ends


def straight(place, cells, scale):
    finish(fork(place, cells, scale), place)
    assert not leftovers(place)
    return SimpleNamespace(outcome=outcome(place), world=place/'runs'/'smoke'/'world')


@pytest.fixture(scope='module')
def warm():
    "Networks that every worker inherits."
    torch.set_num_threads(1)
    load_clip(SMOKE.clip)
    load_classifier(SMOKE.classifier)
    inpainting_model(SMOKE)
    load_context_model(SMOKE.context_model)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, warm): return straight(tmp_path_factory.mktemp('undisturbed'), CELLS, QUICK)


def test_ten_kills_change_no_byte(undisturbed, tmp_path):
    plan = [('features', WHOLE), ('features', False), ('features', True),
            *[('synthesis', False)]*2, *[('synthesis', True)]*2, *[('tuning', False)]*3]
    longest = dict(features=.1, synthesis=.6, tuning=.05)
    kills, _ = chase(undisturbed.outcome, tmp_path, undisturbed.world, CELLS, QUICK, plan, random.Random(7), longest)
    assert {'features', 'synthesis', 'tuning'} <= set(kills) and sum(kills.values()) == len(plan)


def tell(kills, ends):
    "What happened, for those who read the output."
    makings = [(end.made, end.planned) for end in ends]
    print(f'kills {dict(kills)}, runs {len(ends)}, makings {makings}, {dict(ends[0].kinds)}')


@pytest.mark.slow
def test_fifty_kills_change_no_byte_and_make_nothing_twice(tmp_path, warm, record_property):
    (tmp_path/'straight').mkdir()
    whole = straight(tmp_path/'straight', CELLS, SMOKE)
    rest = [*[('synthesis', False)]*5, *[('synthesis', True)]*3, *[('tuning', False)]*4]
    a_run = [('features', WHOLE), *[('features', False)]*3, *[('features', True)]*2, *rest]
    plan = a_run*2 + [('features', False), ('features', True), *rest]
    longest = dict(features=.1, synthesis=2., tuning=.05)
    kills, ends = chase(whole.outcome, tmp_path, whole.world, CELLS, SMOKE, plan, random.Random(11), longest)
    tell(kills, ends)
    assert sum(kills.values()) == len(plan) == 50
    assert min(kills[phase] for phase in ('features', 'synthesis', 'tuning')) >= 5
    batches = SMOKE.m//SMOKE.synthesis.batch_size
    assert all(end.kinds['grad'] == end.kinds['text'] == batches and end.kinds['features'] > 8 for end in ends)


@pytest.mark.slow
def test_trainings_with_checkpoints_survive_kills(tmp_path, warm):
    (tmp_path/'straight').mkdir()
    scale = SMOKE.replace(cma=dict(epochs=3), vos=dict(epochs=10))
    whole = straight(tmp_path/'straight', TRAINED, scale)
    plan = [(phase, at_file) for phase in ('views', 'cma', 'vos') for at_file in (False, False, True, False, True)]
    longest = dict(views=1., cma=.8, vos=.5)
    kills, ends = chase(whole.outcome, tmp_path, whole.world, TRAINED, scale, plan, random.Random(5), longest)
    tell(kills, ends)
    assert sum(kills.values()) == len(plan)
    assert min(kills[phase] for phase in ('views', 'cma', 'vos')) >= 2
    assert {end.kinds['step'] for end in ends} == {24}  # CMA: 3 epochs of 4 batches, VOS: 10 of one, KR-NFT: 2


def test_two_processes_share_a_run(undisturbed, tmp_path):
    shutil.copytree(undisturbed.world, tmp_path/'runs'/'smoke'/'world')
    pids = [fork(tmp_path) for _ in range(2)]
    for pid in pids: finish(pid, tmp_path)
    assert outcome(tmp_path) == undisturbed.outcome
    assert not leftovers(tmp_path)


def test_a_finished_run_makes_nothing(undisturbed, tmp_path, monkeypatch):
    shutil.copytree(undisturbed.world.parent.parent, tmp_path/'runs')
    kinds = {'.png', '.safetensors', '.jsonl'}
    files = [p for p in (tmp_path/'runs').rglob('*') if p.suffix in kinds or p.name == 'manifest.json']
    rows = list((tmp_path/'runs'/'smoke'/'rows').rglob('*.csv'))
    times = {p: p.stat().st_mtime_ns for p in files + rows}
    assert len(times) > 300
    monkeypatch.setattr('synood.evaluation.benchmark.evaluate_images', lambda *a: pytest.fail('evaluated again'))
    monkeypatch.setattr('synood.outliers.synthesis.synthesise', lambda *a: pytest.fail('synthesised again'))
    work(tmp_path/'runs')
    assert times == {p: p.stat().st_mtime_ns for p in times}
