"""tools/nb.py on a small project of its own: nothing is lost on the way through text, and every
fault it promises to find is found."""
import json
import subprocess
import sys

import nbformat
import pytest
from nbdev.config import get_config
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

SETTINGS = """[DEFAULT]
repo = little
lib_name = little
version = 0.0.1
nbs_path = nbs
lib_path = little
recursive = False
tst_flags = notest slow
update_pyproject = False
allowed_cell_metadata_keys = tags
user = nobody
author = nobody
git_url = nowhere
branch = main
description = Adds
"""
KERNEL = {'name': 'python3', 'display_name': 'python3', 'language': 'python'}


def text_output(text):
    return new_output('stream', name='stdout', text=text)


def example():
    "A notebook without faults, with everything that must survive."
    return new_notebook(metadata={'kernelspec': KERNEL}, cells=[
        new_markdown_cell('# Adding\n\n> Sums of two numbers.', id='title'),
        new_code_cell('#| default_exp adding', id='default'),
        new_code_cell('n: int = 2', id='choose', metadata={'tags': ['parameters']}),
        new_code_cell('#| export\ndef add(a, b):\n    return a + b', id='export'),
        new_code_cell('#| hide\nfrom little.adding import add', id='import'),
        new_code_cell('assert add(1, 1) == n\nprint("two")', id='test',
                      outputs=[text_output('two\n')]),
        new_code_cell('print("never run")', id='last', outputs=[text_output('kept\n')])])


class Little:
    "A project in a folder, and the tools called inside it."

    def __init__(self, folder, tools, capsys):
        self.folder, self.tools, self.capsys = folder, tools, capsys
        self.path = folder/'nbs'/'00_adding.ipynb'
        self.text = folder/'.nbtext'/'00_adding.py'
        self.module = folder/'little'/'adding.py'
        (folder/'nbs').mkdir(parents=True)
        (folder/'settings.ini').write_text(SETTINGS)

    def run(self, tool, *arguments, fails=False):
        "What the tool prints; with `fails`, what it complains of."
        try:
            tool.main(arguments)
        except SystemExit as exit:
            assert fails, exit
            return str(exit)
        assert not fails
        return self.capsys.readouterr().out

    def nb(self, *arguments, fails=False):
        return self.run(self.tools.nb, *arguments, fails=fails)

    def book(self, *arguments, fails=False):
        return self.run(self.tools.book, *arguments, fails=fails)

    def write(self, notebook):
        "Store the notebook as the tool would: clean, with its module exported."
        nbformat.write(notebook, self.path)
        self.nb('text', 'nbs/00_adding.ipynb')
        self.nb('save', 'nbs/00_adding.ipynb')

    def read(self):
        return nbformat.read(self.path, 4)

    def cell(self, cell_id):
        return next(cell for cell in self.read().cells if cell.id == cell_id)

    def edit(self, old, new):
        text = self.text.read_text()
        assert old in text
        self.text.write_text(text.replace(old, new))


@pytest.fixture
def little(tmp_path, tools, capsys, monkeypatch):
    project = Little(tmp_path/'project', tools, capsys)
    monkeypatch.chdir(project.folder)
    get_config.cache_clear()
    project.write(example())
    yield project
    get_config.cache_clear()


# ---- text and back ----------------------------------------------------------------------------

def test_unedited_text_gives_the_same_bytes(little):
    before, module = little.path.read_bytes(), little.module.read_bytes()
    little.nb('text', 'nbs/00_adding.ipynb')
    little.nb('save', 'nbs/00_adding.ipynb')
    assert little.path.read_bytes() == before
    assert little.module.read_bytes() == module
    assert 'agree' in little.nb('check')


def test_ids_tags_and_outputs_survive_an_edit_elsewhere(little):
    little.edit('# %% tags=["parameters"]', '# %%\nextra = 3\n\n# %% tags=["parameters"]')
    little.edit('return a + b', 'return b + a')
    assert 'adding.py exported' in little.nb('save', 'nbs/00_adding.ipynb')
    assert [cell.id for cell in little.read().cells if cell.source != 'extra = 3'] == [
        cell.id for cell in example().cells]
    assert little.cell('choose').metadata == {'tags': ['parameters']}
    assert little.cell('test').outputs[0].text == 'two\n'
    assert 'return b + a' in little.module.read_text()


def test_edited_cell_loses_its_output(little):
    little.edit('print("two")', 'print("deux")')
    little.nb('save', 'nbs/00_adding.ipynb')
    assert little.cell('test').outputs == []
    assert little.cell('last').outputs[0].text == 'kept\n'


def test_tags_follow_the_text(little):
    little.edit('# %% tags=["parameters"]', '# %%')
    little.nb('save', 'nbs/00_adding.ipynb')
    assert little.cell('choose').metadata == {}


def test_save_refuses_when_the_notebook_changed_meanwhile(little):
    little.edit('print("two")', 'print("deux")')
    other = little.read()
    other.cells[0].source += ' Or of three.'
    nbformat.write(other, little.path)
    assert 'edited after' in little.nb('save', 'nbs/00_adding.ipynb', fails=True)
    little.nb('save', '--force', 'nbs/00_adding.ipynb')
    assert 'deux' in little.cell('test').source


def test_save_refuses_what_cannot_be_exported(little):
    before = little.path.read_bytes()
    little.edit('return a + b', 'return a +')
    assert 'return a +' in little.nb('save', 'nbs/00_adding.ipynb', fails=True)
    assert little.path.read_bytes() == before


def test_saves_at_once_lose_nothing(little, root):
    names = [f'nbs/0{number}_part{number}.ipynb' for number in (1, 2, 3)]
    for name in names:
        little.nb('new', name)
    running = [subprocess.Popen([sys.executable, root/'tools'/'nb.py', 'save', name])
               for name in names]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert 'agree' in little.nb('check')


# ---- run --------------------------------------------------------------------------------------

def test_run_stores_outputs_and_passes_over_what_nbdev_test_skips(little):
    notebook = example()
    notebook.cells[-2].source = 'print(n + 40)'
    notebook.cells[-1].source = '#| eval: false\nraise SystemError'
    notebook.cells.append(new_code_cell('#| slow\nprint("slow")', id='slow'))
    notebook.cells.append(new_code_cell('import os\nprint(os.path.basename(os.getcwd()))', id='c'))
    notebook.cells.pop(4)  # the import: this project is not installed
    little.write(notebook)
    little.edit('return a + b', 'return a + b + 0')  # an edit under way is not lost
    little.nb('run', 'nbs/00_adding.ipynb')
    assert little.cell('test').outputs[0].text == '42\n'
    assert little.cell('c').outputs[0].text == 'nbs\n'
    assert little.cell('slow').outputs == []
    assert 'execution_count' not in json.dumps(little.cell('test').metadata)
    little.nb('save', 'nbs/00_adding.ipynb')
    assert little.cell('test').outputs[0].text == '42\n'
    little.nb('run', '--flags', 'slow', 'nbs/00_adding.ipynb')
    assert little.cell('slow').outputs[0].text == 'slow\n'


def test_run_leaves_the_notebook_alone_when_a_cell_fails(little):
    notebook = example()
    notebook.cells[2].source = 'raise KeyError("no such thing")'
    little.write(notebook)
    before = little.path.read_bytes()
    assert 'no such thing' in little.nb('run', 'nbs/00_adding.ipynb', fails=True)
    assert little.path.read_bytes() == before


# ---- new --------------------------------------------------------------------------------------

def test_new_names_the_module_after_the_file_or_as_told(little):
    little.nb('new', 'nbs/01_taking.ipynb')
    little.nb('new', '--module', 'times', 'nbs/02_multiplying.ipynb')
    little.nb('save', 'nbs/01_taking.ipynb', 'nbs/02_multiplying.ipynb')
    modules = {path.name for path in (little.folder/'little').glob('[!_]*.py')}
    assert modules == {'adding.py', 'taking.py', 'times.py'}


def test_new_in_a_room_names_the_room_first_and_finds_the_runs(little):
    (little.folder/'nbs'/'1_data').mkdir()
    little.nb('new', 'nbs/1_data/02_words.ipynb')
    little.nb('new', '--no-module', 'nbs/1_data/table.ipynb')
    cells = nbformat.read(little.folder/'nbs'/'1_data'/'02_words.ipynb', 4).cells
    assert cells[1].source == '#| default_exp data.words'
    assert 'root: str = "../../runs"' in nbformat.read(little.folder/'nbs'/'1_data'/'table.ipynb', 4).cells[1].source


def test_new_without_module_exports_nothing_and_takes_parameters(little):
    little.nb('new', '--no-module', 'nbs/20_adding.ipynb')
    little.nb('save', 'nbs/20_adding.ipynb')
    assert 'agree' in little.nb('check')
    cells = nbformat.read(little.folder/'nbs'/'20_adding.ipynb', 4).cells
    assert [cell.metadata.get('tags') for cell in cells] == [None, ['parameters']]


def test_new_refuses_a_module_that_another_notebook_makes(little):
    assert '00_adding.ipynb already exports' in little.nb('new', 'nbs/03_adding.ipynb', fails=True)
    assert not (little.folder/'nbs'/'03_adding.ipynb').exists()


# ---- check ------------------------------------------------------------------------------------

def source(cell, text):
    return lambda notebook: notebook.cells[cell].update(source=text)


def output(cell, *outputs):
    return lambda notebook: notebook.cells[cell].update(outputs=list(outputs))


# Words and paths that must not stand in this file either are put together here.
UNDONE = 'TO' + 'DO'
HOME = '/'.join(['', 'home', 'someone', 'images'])


@pytest.mark.parametrize('change, says', [
    (lambda notebook: notebook.cells[5].update(id='last'), 'share the id'),
    (lambda notebook: notebook.cells[5].pop('id'), 'without an id'),
    (lambda notebook: notebook.metadata.kernelspec.update(name='my-env'), 'kernel'),
    (lambda notebook: notebook.metadata.update(vscode={}), 'besides the kernel'),
    (output(5, new_output('error', ename='E', evalue='', traceback=[])), 'stores an error'),
    (lambda notebook: notebook.cells[5].metadata.update(tags=['injected-parameters']), 'papermill'),
    (source(3, '# sums\n#| export\ndef add(a, b): return a + b'), 'ignored'),
    (source(3, '#| export\n%time 1\ndef add(a, b): return a + b'), 'magic'),
    (source(3, '#| export\ndef add(a, b):\n' + '    a += b\n'*50 + '    return a'), '52 lines'),
    (source(1, '#| hide\n1'), 'no `#| default_exp`'),
    (source(5, 'print(2)'), 'add is exported but no test cell'),
    (source(5, '#| slow\nassert add(1, 1) == n'), 'add is exported but no test cell'),
    (source(5, f'assert add(1, 1) == n  # {UNDONE}: more'), f'says {UNDONE}'),
    (source(0, f'# Adding\n\n> See {HOME}.'), 'path of one machine'),
    (output(5, text_output(f'{HOME}/1.png\n')), 'output shows a path'),
    (output(5, new_output('display_data', {'text/plain': f'"{HOME}"'})), 'output shows a path'),
    (output(5, text_output('0123456789' * 60_001)), '60'),
])
def test_check_finds_the_fault_of_one_notebook(tools, change, says):
    notebook = example()
    assert list(tools.nb.notebook_faults(json.dumps(notebook), {'slow'})) == []
    change(notebook)
    faults = list(tools.nb.notebook_faults(json.dumps(notebook), {'slow'}))
    assert any(says in fault for fault in faults), faults


def test_check_writes_nothing(little):
    notebook = example()
    notebook.cells[3].source = '#| export\ndef add(a, b):\n    return b + a'
    nbformat.write(notebook, little.path)
    before = {path: path.stat().st_mtime_ns for path in little.folder.rglob('*') if path.is_file()}
    faults = little.nb('check', fails=True)
    assert 'adding.py: differs from its notebook' in faults
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_check_names_all_faults_though_export_fails(little):
    notebook = little.read()
    notebook.cells[3].source = '#| export\n%time 1\ndef add(a, b):\n    return a + b'
    nbformat.write(notebook, little.path)
    faults = little.nb('check', fails=True)
    assert 'magic' in faults and 'nbdev_export failed' in faults


def test_check_finds_lines_that_are_too_wide(little):
    notebook = little.read()
    notebook.cells[0].source = '# Adding\n\n> Sums.\n\n' + 'w'*120
    nbformat.write(notebook, little.path)
    (little.folder/'tests').mkdir()
    (little.folder/'tests'/'test_adding.py').write_text('#'*120)
    assert 'characters' not in little.nb('check', fails=True)  # the module differs, and no line is too wide
    notebook.cells[0].source += 'w'
    nbformat.write(notebook, little.path)
    (little.folder/'tests'/'test_adding.py').write_text('1\n' + '#'*121)
    faults = little.nb('check', fails=True)
    assert f'00_adding.ipynb: cell {notebook.cells[0].id}: over 120 characters in line 5' in faults
    assert 'test_adding.py: over 120 characters in line 2' in faults


def test_check_finds_faults_of_modules(little):
    little.module.write_text(little.module.read_text() + '\n')
    (little.folder/'little'/'old.py').write_text('def left_behind(): pass\n')
    faults = little.nb('check', fails=True)
    assert 'adding.py: differs' in faults and 'old.py: no notebook exports' in faults
    little.module.unlink()
    assert 'adding.py: is missing' in little.nb('check', fails=True)


def test_check_finds_notebooks_that_are_not_clean(little):
    notebook = little.read()
    notebook.cells[5].execution_count = 7
    nbformat.write(notebook, little.path)
    assert 'not clean' in little.nb('check', fails=True)


def test_check_finds_two_notebooks_of_one_module_and_imports_against_the_order(little):
    notebook = example()
    notebook.cells[3].source = '#| export\nfrom little.later import x\ndef add(a, b): return a + b'
    little.write(notebook)
    little.nb('new', 'nbs/05_later.ipynb')
    little.path.with_name('06_twin.ipynb').write_bytes(little.path.read_bytes())
    faults = little.nb('check', fails=True)
    assert '06_twin.ipynb: 00_adding.ipynb exports to adding too' in faults
    assert '00_adding.ipynb: imports later' in faults


# ---- README -----------------------------------------------------------------------------------

PIXEL = ('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA'
         'WjR9awAAAABJRU5ErkJggg==')


@pytest.fixture
def front(little):
    "The little project with a front page."
    nbformat.write(new_notebook(metadata={'kernelspec': KERNEL}, cells=[
        new_markdown_cell('# little\n\n> Adds.\n\nSee [adding](00_adding.ipynb), '
                          '[settings](../settings.ini), [more](https://example.org/a), [up](#x).'),
        new_code_cell('#| hide\nimport little'),
        new_code_cell('#| code-fold: true\n1 + 1', outputs=[
            new_output('stream', name='stderr', text='a warning'),
            new_output('display_data', {'image/png': PIXEL, 'text/plain': '<Figure>'}),
            new_output('execute_result', {'text/plain': 'a  2', 'text/html': '<style>b</style>'})]),
    ]), little.folder/'nbs'/'index.ipynb')
    return little


def test_readme_shows_what_a_reader_needs(front):
    front.book('readme')
    text = (front.folder/'README.md').read_text()
    for wanted in ('(nbs/00_adding.ipynb)', '(settings.ini)', '(https://example.org/a)', '(#x)',
                   '```python\n1 + 1\n```', 'a  2', '](nbs/index_files/index_'):
        assert wanted in text, wanted
    for unwanted in ('import little', 'code-fold', 'a warning', '<style>', '<Figure>'):
        assert unwanted not in text, unwanted
    assert len(list((front.folder/'nbs'/'index_files').glob('*.png'))) == 1


def test_results_have_a_page_beside_the_figures(front):
    nbformat.write(new_notebook(metadata={'kernelspec': KERNEL}, cells=[
        new_markdown_cell('# Results\n\nSee [adding](00_adding.ipynb) and the [front page](index.ipynb).'),
        new_code_cell('#| echo: false\n1', outputs=[new_output('display_data', {'image/png': PIXEL})]),
    ]), front.folder/'nbs'/'results.ipynb')
    index = front.folder/'nbs'/'index.ipynb'
    index.write_text(index.read_text().replace('See [adding]', 'See [results](results.ipynb), [adding]'))
    front.book('readme', '--check', fails=True)
    front.book('readme')
    front.book('readme', '--check')
    assert '[results](paper_figures/README.md)' in (front.folder/'README.md').read_text()
    text = (front.folder/'paper_figures'/'README.md').read_text()
    assert '](../nbs/00_adding.ipynb)' in text and '[front page](../README.md)' in text
    image = text.split('](')[-1].split(')')[0]
    assert (front.folder/'paper_figures'/image).resolve().parent == front.folder/'nbs'/'index_files'
    (front.folder/'paper_figures'/'README.md').write_text('by hand')
    assert 'paper_figures/README.md' in front.book('readme', '--check', fails=True)


def test_readme_is_written_only_when_it_changes(front):
    front.book('readme', '--check', fails=True)
    assert 'written' in front.book('readme')
    before = (front.folder/'README.md').stat().st_mtime_ns
    front.book('readme', '--check')
    assert 'nothing changed' in front.book('readme')
    assert (front.folder/'README.md').stat().st_mtime_ns == before
    (front.folder/'nbs'/'index_files'/'index_99_0.png').write_bytes(b'')
    assert 'index_99_0.png' in front.book('readme', '--check', fails=True)
    front.book('readme')
    assert not (front.folder/'nbs'/'index_files'/'index_99_0.png').exists()


def test_readme_refuses_links_that_lead_nowhere(front):
    path = front.folder/'nbs'/'index.ipynb'
    path.write_text(path.read_text().replace('00_adding.ipynb', '00_gone.ipynb'))
    assert '00_gone.ipynb, which does not exist' in front.book('readme', fails=True)


# ---- book -------------------------------------------------------------------------------------

def test_book_has_every_notebook_in_one_part(tools, root):
    paths = list((root/'nbs').glob('*/*.ipynb'))
    shelf = tools.book.parts(paths)
    assert list(shelf) == ['Core', 'Data', 'Models', 'Scores', 'Outliers', 'Methods', 'Evaluation', 'Detector', 'App',
                           'Experiments']
    assert [path for part in shelf.values() for path in part] == sorted(paths)
    assert shelf['Core'][0].name == '00_scales.ipynb'


def test_book_keeps_what_a_reader_needs_and_where_links_lead(front):
    room = front.folder/'nbs'/'0_core'
    room.mkdir()
    front.path.rename(room/front.path.name)
    index = front.folder/'nbs'/'index.ipynb'
    index.write_text(index.read_text().replace('](00_adding', '](0_core/00_adding'))
    (front.folder/'CHANGELOG.md').write_text('# Changelog\n\nSee [adding](nbs/0_core/00_adding.ipynb).\n')
    source = front.folder/'_book'/'source'
    front.tools.book.write_source(source)
    written = {str(path.relative_to(source)) for path in source.rglob('*') if path.is_file()}
    assert written == {'index.ipynb', 'nbs/0_core/00_adding.ipynb', 'settings.ini', 'CHANGELOG.md'}
    adding, opening = (nbformat.read(source/name, 4) for name in ('nbs/0_core/00_adding.ipynb', 'index.ipynb'))
    assert adding.cells[0].source.startswith('# Adding\n')
    assert 'default_exp' not in str(adding) and '#|' not in str(adding)
    assert '](nbs/0_core/00_adding.ipynb)' in opening.cells[0].source and '](settings.ini)' in opening.cells[0].source
    toctrees = opening.cells[-1].source
    assert ':caption: Core\n\nnbs/0_core/00_adding\n' in toctrees and ':caption: The project\n\nCHANGELOG\n' in toctrees


def test_book_refuses_notebooks_without_a_place(tools, root):
    with pytest.raises(tools.nb.Fault, match='notes.ipynb: move it into a room'):
        tools.book.parts([root/'nbs'/'notes.ipynb'])
