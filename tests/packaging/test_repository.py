"""What must hold of the checkout as a whole."""
import ast
import json
import re
import subprocess
import sys

import pytest


def tool(root, *arguments):
    return subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True)


def test_notebooks_and_modules_agree(root):
    done = tool(root, 'tools/nb.py', 'check')
    assert done.returncode == 0, done.stderr


def test_readme_is_what_its_notebook_gives(root):
    if not (root/'nbs'/'index.ipynb').exists():
        pytest.skip('nbs/index.ipynb is not written yet')
    done = tool(root, 'tools/book.py', 'readme', '--check')
    assert done.returncode == 0, done.stderr


def test_notebooks_have_a_name_of_their_own_a_number_of_their_room_and_one_kernel(root):
    files = sorted((root/'nbs').glob('[0-9]_*/*.ipynb'))
    assert len(files) > 60 and len({re.sub(r'^\d+_', '', path.stem) for path in files}) == len(files)
    numbers = [(path.parent, path.name[:2]) for path in files if path.name[0].isdigit()]
    assert len(set(numbers)) == len(numbers)
    for path in files:
        kernel = json.loads(path.read_text(encoding='utf-8'))['metadata']['kernelspec']
        assert kernel['name'] == 'python3', path.name


def test_no_file_is_unfinished_or_tied_to_one_machine(root, tracked, tools):
    faults = []
    for name in tracked:
        if name.suffix == '.ipynb':  # tools/nb.py check reads their sources and outputs
            continue
        try:
            lines = (root/name).read_text(encoding='utf-8').splitlines()
        except UnicodeDecodeError:
            continue
        faults += [f'{name}:{number}: {line.strip()[:100]}' for number, line in enumerate(lines, 1)
                  if tools.nb.UNFINISHED.search(line) or tools.nb.LOCAL_PATH.search(line)]
    assert faults == []


# reading a file is running it
LOADERS = {'pickle', 'cPickle', '_pickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal'}
CALLS = {'eval', 'exec', 'yaml.load', 'yaml.unsafe_load', 'yaml.full_load', 'pd.read_pickle', 'pandas.read_pickle',
         'torch.hub.load', 'np.lib.format.read_array'}


def unsafe(tree):
    "What would run code from a file or a hub, or load pickles; torch.load reads tensors only if told so."
    careful = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)
               and any(k.arg == 'weights_only' and ast.unparse(k.value) == 'True' for k in node.keywords)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
            yield from (name for name in names if name.split('.')[0] in LOADERS)
            yield from (f'{node.module}.{name}' for name in names if isinstance(node, ast.ImportFrom)
                        and f'{node.module}.{name}' in CALLS | {'torch.load'})
        elif isinstance(node, ast.Attribute):
            if ast.unparse(node) == 'torch.load' and id(node) not in careful:
                yield 'torch.load'
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) in CALLS: yield ast.unparse(node.func)
        elif isinstance(node, ast.keyword):
            if (node.arg in {'trust_remote_code', 'allow_pickle'}
                    and not (isinstance(node.value, ast.Constant) and node.value.value is False)):
                yield node.arg


def code_of(path):
    "Python source of a module, or of a notebook's code cells without magics."
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.py': return text
    cells = [''.join(cell['source']) for cell in json.loads(text)['cells'] if cell['cell_type'] == 'code']
    return '\n'.join(line for cell in cells for line in cell.splitlines() if not line.lstrip().startswith(('%', '!')))


def test_nothing_runs_code_from_files(root):
    files = [path for pattern in ('synood/**/*.py', 'nbs/**/*.ipynb', 'tools/*.py', 'setup.py')
             for path in sorted(root.glob(pattern))]
    assert len(files) > 70
    faults = {path.relative_to(root).as_posix(): set(unsafe(ast.parse(code_of(path)))) for path in files}
    # what the workers of a cluster hand each other comes from no file; Ray itself speaks it, behind its token
    between_workers = {name: {'pickle', 'cloudpickle'}
                       for name in ('synood/core/cluster.py', 'nbs/0_core/03_cluster.ipynb')}
    # some notebooks show in a test what a stage and a network are to a worker: a name
    shown = dict.fromkeys(('nbs/0_core/04_stages.ipynb', 'nbs/2_models/00_hub.ipynb', 'nbs/2_models/02_photos.ipynb'),
                          {'pickle'})
    # what `weights_only` raises for a checkpoint that would run code, and a test with one that does
    refused = dict.fromkeys(('synood/methods/released.py', 'nbs/5_methods/released.ipynb'), {'pickle'})
    assert {name: what for name, what in faults.items() if what} == between_workers | shown | refused


@pytest.mark.parametrize('source', [
    'import pickle', 'from pickle import loads', 'import joblib', 'import shelve', 'import marshal',
    'torch.load("weights.pt")', 'torch.load("weights.pt", weights_only=False)',
    'from torch import load', 'eval(text)', 'exec(text)', 'yaml.load(text)', 'pd.read_pickle(name)',
    'torch.hub.load("owner/name", "model")',
    'AutoModel.from_pretrained(name, trust_remote_code=True)', 'np.load(name, allow_pickle=True)'])
def test_unsafe_sees_what_it_should(source):
    assert list(unsafe(ast.parse(source)))
