"""A notebook that fails stops no other one: `reproduce` ends with status 1 and a list of what failed."""
import json

import nbformat
import pytest

from synood.app.cli import main
from synood.core import notebooks

# Two notebooks need a stage that cannot be made, the one between them another stage.
STAGE = '''#| stage
from pathlib import Path
from synood.core.stages import run_stage, stage
@stage('copy of {source}')
def copy_stage(job): (job.folder/'copy').write_text(Path('{source}').read_text())
run_stage('copy of {source}', scale, root=root)'''


@pytest.fixture
def missing(tmp_path, monkeypatch):
    "A file that is not there; notebooks that need it, and one that does not, stand in place of those of the checkout."
    (tmp_path/'there.txt').write_text('here')
    paths = []
    for name, source in dict(first='missing.txt', second='there.txt', third='missing.txt').items():
        given = nbformat.v4.new_code_cell("scale = 'smoke'\nroot = 'runs'", metadata=dict(tags=['parameters']))
        nb = nbformat.v4.new_notebook(cells=[given, nbformat.v4.new_code_cell(STAGE.format(source=source))])
        nb.metadata.kernelspec = dict(name='python3', display_name='python3', language='python')
        paths.append(tmp_path/f'{name}.ipynb')
        nbformat.write(nb, paths[-1])
    monkeypatch.setattr(notebooks, 'find_notebooks', lambda only, full: paths)
    monkeypatch.chdir(tmp_path)
    return 'missing.txt'


def test_a_notebook_that_fails_stops_no_other_and_the_run_ends_with_a_list(missing, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(['reproduce', '--scale', 'smoke', '--root', 'runs', '--jobs', '1', '--json'])
    told = capsys.readouterr()
    assert ended.value.code == 1
    assert json.loads(told.out)['notebooks'] == dict(first='failed', second='ran', third='failed')
    *_, first, third, last = told.err.splitlines()
    for name, line in dict(first=first, third=third).items():
        assert line.startswith(f'{name}.ipynb stopped at FileNotFoundError: ') and missing in line
        assert line.endswith(f'all it printed is in {tmp_path/"runs"/"smoke"/"notebooks"/name}.ipynb')
    assert last == '2 of 3 notebooks failed. What was finished is kept: the same command goes on from there'
