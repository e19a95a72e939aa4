"""A method with settings and a stage of its own is one file: found, listed, set from the command line, benchmarked."""
import json
import sys

import numpy as np
import pytest

import synood.methods
from synood.app.cli import main
from synood.core.stages import stages
from synood.core.scales import get_scale, setting_groups
from synood.evaluation.benchmark import data_key, experiment
from synood.scores import method as interface
from synood.scores.method import MCM, get_method

FILE = '''
"""Powers: MCM's score to a power that a stage computes."""
import json
from dataclasses import dataclass
from typing import ClassVar
from synood.core.files import atomic_write
from synood.core.stages import stage
from synood.core.scales import at_least, settings
from synood.data.images import read_sets
from synood.scores.method import MCM, register

@settings('powers', mini=dict(share=.5))
@dataclass(frozen=True)
class PowerSettings:
    "How the power is found."
    share: float = 1.  # of the number of classes
    floor: int = 1  # the least power

    def __post_init__(self): at_least(self, 0, 'share floor')

@stage('powers', needs=('images',), uses=('powers.share',))
def powers_stage(job):
    "power.json: a share of the number of classes."
    classes = read_sets(job.inputs['images'])['train'].classes
    atomic_write(job.folder/'power.json', json.dumps(job.scale.powers.share*len(classes)))

@register
@dataclass
class Powers(MCM):
    "MCM's score to a power."
    name: ClassVar[str] = 'Powers'
    source: ClassVar[str] = 'made up'
    settings: ClassVar[tuple[str, ...]] = ('powers.floor',)
    stages: ClassVar[tuple[str, ...]] = ('powers',)

    def fit(self, train):
        power = json.loads((train.stage('powers')/'power.json').read_text())
        self.power = max(power, train.scale.powers.floor)
        return super().fit(train)

    def score(self, test): return super().score(test)**self.power
'''


@pytest.fixture
def one_file(tmp_path, monkeypatch):
    "The file among the methods of the package, and nothing of it afterwards."
    (tmp_path/'shelf').mkdir()
    (tmp_path/'shelf'/'powers.py').write_text(FILE)
    monkeypatch.setattr(synood.methods, '__path__', [*synood.methods.__path__, str(tmp_path/'shelf')])
    yield tmp_path/'shelf'/'powers.py'
    for registry, name in ((stages, 'powers'), (setting_groups, 'powers'), (interface._methods, 'Powers')):
        registry.pop(name, None)
    sys.modules.pop('synood.methods.powers', None)


def call(capsys, *arguments):
    "Exit status of a command, what it printed, and what it said of errors."
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_a_method_with_settings_and_a_stage_is_one_file(one_file, list_methods, tmp_path):
    line, = [line for line in list_methods(one_file).splitlines() if line.startswith('Powers ')]
    assert 'clip image' in line and 'made up' in line

    scale = get_scale('smoke').replace(name='tiny', n_train=1, n_test=10)
    assert (scale.powers.share, get_scale('paper').powers.share) == (.5, 1.)
    kinds = get_method('Powers'), MCM
    rows, plain = (experiment(kind.name, [kind()], scale, (0,), tmp_path/'runs') for kind in kinds)
    assert np.allclose(rows.auroc, plain.auroc)  # a power changes no order
    steeper = scale.replace(powers=dict(share=.4))
    assert data_key(steeper, get_method('Powers')) != data_key(scale, get_method('Powers'))
    assert data_key(steeper, MCM) == data_key(scale, MCM)


def test_its_settings_are_reached_from_the_command_line(one_file, tmp_path, capsys):
    small = '--set', 'n_train=1', '--set', 'n_test=10', '--set'
    run = 'run', 'powers', '--scale', 'smoke', '--root', tmp_path/'runs', '--json', *small
    status, printed, _ = call(capsys, *run, 'powers.share=0.25')
    assert status == 0
    folder = json.loads(printed)['0']
    assert json.loads(open(f'{folder}/power.json').read()) == 5.
    assert json.loads(open(f'{folder}/manifest.json').read())['settings'] == {'powers.share': .25}
    mistakes = {'powers.shrae=1': 'did you mean powers.share?', 'powers.share=-1': 'powers.share must be at least 0',
                'powers.floor=x': "powers.floor must be a int, not 'x'", 'share': 'write name=value'}
    for wrong, advice in mistakes.items():
        status, _, errors = call(capsys, *run, wrong)
        assert status == 2 and advice in errors and len(errors.splitlines()) == 1, errors
