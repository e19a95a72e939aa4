"The tool that measures imports: what it adds up, and what it prints."
import importlib.util
import json
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2]/'tools'/'bench_imports.py'


@pytest.fixture(scope='module')
def bench():
    spec = importlib.util.spec_from_file_location('bench_imports', PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_work_is_counted_and_waiting_is_not(bench):
    working = bench.cpu_seconds([sys.executable, '-S', '-c', 'import time\nwhile time.process_time() < .5: pass'])
    waiting = bench.cpu_seconds([sys.executable, '-S', '-c', 'import time; time.sleep(.5)'])
    assert .45 < working < 1.5 and waiting < .4


def test_a_command_that_fails_is_named(bench):
    with pytest.raises(SystemExit, match='no such thing'):
        bench.cpu_seconds([sys.executable, '-c', 'raise SystemExit("no such thing")'])


def test_table_and_json(bench, monkeypatch, capsys):
    monkeypatch.setattr(bench, 'COMMANDS', {'import torch': 2., 'synood --help': .5})
    monkeypatch.setattr(bench, 'cpu_seconds', lambda command: command)
    bench.main([])
    assert capsys.readouterr().out.splitlines()[-1].split() == ['synood', '--help', '0.50', '0.25']
    bench.main(['--json'])
    rows = json.loads(capsys.readouterr().out)
    assert rows['import torch'] == dict(cpu_seconds=2., times_torch=1.)
    assert set(rows) == {'import torch', 'synood --help'}


@pytest.mark.slow
def test_the_detector_costs_little_more_than_torch(bench):
    names = 'import torch', 'from synood.detector import OODDetector'
    rows = bench.ratios(bench.measure({name: bench.COMMANDS[name] for name in names}, 3))
    assert rows[names[1]]['times_torch'] <= 1.3
