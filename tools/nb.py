"""Edit, execute and check the notebooks without a browser.

    python tools/nb.py new   nbs/5_methods/margin.ipynb  start a notebook that makes synood/methods/margin.py
    python tools/nb.py text  nbs/5_methods/margin.ipynb  write .nbtext/margin.py: edit it anywhere
    python tools/nb.py save  nbs/5_methods/margin.ipynb  fold the edited text back, clean, export
    python tools/nb.py run   nbs/5_methods/margin.ipynb  execute in place, storing the outputs
    python tools/nb.py check                             find what would go wrong silently; writes nothing

The notebook is the only source. The text (jupytext's percent format) is a view of it: git ignores
.nbtext/, and it may be deleted at any time. `new` takes `--module NAME`, or `--no-module` for a
notebook that only draws tables and figures.
"""
import argparse
import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import jupytext
import nbformat
from execnb.nbio import nb2str
from filelock import FileLock
from jupytext.combine import combine_inputs_with_outputs
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.process import extract_directives, first_code_ln

PERCENT = 'py:percent'
KERNEL = {'name': 'python3', 'display_name': 'python3', 'language': 'python'}
EXPORTS = {'export', 'exports', 'exporti'}
LONGEST_EXPORT = 50  # lines of code in one exported cell
LARGEST_NOTEBOOK = 600_000  # bytes
WIDEST = 120  # characters in a line of code or prose
# One letter of each word stands in brackets so that no search finds the words here.
UNFINISHED = re.compile(r'\b(TO[D]O|FIX[M]E|X[X]X)\b')
LOCAL_PATH = re.compile(r'(?<![\w.])/(?:home|Users|root|work|workspace|mnt|tmp|scratch)/\w'
                        r'|(?<!\w)~/[A-Za-z]|\b[A-Z]:\\+Users\b')


class Fault(Exception):
    "What was wrong and what to do, in one line."


# ---- the project ------------------------------------------------------------------------------

def project():
    "nbdev's settings of the project around the current folder."
    config = get_config()
    if not (config.config_path/'settings.ini').exists():
        raise Fault('no settings.ini in this folder or above: run this inside the project')
    return config


def text_folder():
    return project().config_path/'.nbtext'


@contextmanager
def lock():
    "Only one process at a time writes notebooks, their texts and modules."
    text_folder().mkdir(exist_ok=True)
    with FileLock(text_folder()/'.lock'):
        yield


def write_atomically(path, content):
    "Write text or bytes through a temporary name; return whether the file changed."
    content = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return True


# ---- notebooks and their cells ----------------------------------------------------------------

def directives(source):
    "The leading `#|` lines of a cell as nbdev reads them: {name: [arguments]}."
    return extract_directives(nbformat.from_dict({'source': source}), remove=False)


def is_skipped(source, flags):
    "Whether nbdev_test passes over the cell: never evaluated, under a test flag, or exporting."
    named = directives(source)
    never = named.get('eval:', [''])[:1] == ['false']
    return never or bool(flags & named.keys()) or 'nbdev_export(' in source


def is_exported(source):
    return bool(EXPORTS & directives(source).keys())


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def module_of(notebook):
    "The module named by `#| default_exp`, or None."
    for cell in code_cells(notebook):
        if arguments := directives(cell.source).get('default_exp'):
            return arguments[0]
    return None


def modules_of(notebook):
    "Every module that the notebook writes to."
    named = {args[0] for cell in code_cells(notebook)
             for name, args in directives(cell.source).items() if name in EXPORTS and args}
    return named | {module_of(notebook)} - {None}


def read(path):
    if not path.exists():
        raise Fault(f'{path} does not exist: start it with `python tools/nb.py new {path}`')
    return nbformat.read(path, 4)


def render(notebook):
    "The bytes of a notebook file as nbdev_clean leaves them."
    config = project()
    content = json.loads(nbformat.writes(notebook))
    clean_nb(content, clear_all=config.clear_all, clean_ids=config.clean_ids,
             allowed_metadata_keys=config.allowed_metadata_keys.split(),
             allowed_cell_metadata_keys=config.allowed_cell_metadata_keys.split())
    return nb2str(content)


def digest(notebook):
    "A hash of what the text shows: kinds, sources and tags, but no outputs."
    shown = [(cell.cell_type, cell.source.rstrip('\n'), cell.metadata.get('tags', []))
             for cell in notebook.cells]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


def notebooks():
    "{path: notebook}, in reading order."
    folder = project().nbs_path
    paths = [path for path in folder.rglob('*.ipynb')
             if not any(part.startswith(('_', '.')) for part in path.relative_to(folder).parts)]
    return {path: read(path) for path in sorted(paths)}


# ---- text and back ----------------------------------------------------------------------------

def text_path(path):
    return text_folder()/f'{path.stem}.py'


def to_text(path):
    "Write the text of the notebook; refuse where the way back would not be exact."
    notebook = read(path)
    stamp = digest(notebook)
    notebook.metadata['jupytext'] = {'notebook_metadata_filter': '-all',
                                     'cell_metadata_filter': 'tags,-all'}
    body = jupytext.writes(notebook, PERCENT)
    if digest(jupytext.reads(body, PERCENT)) != stamp:
        raise Fault(f'{path} would not survive the way through text: edit it in JupyterLab')
    write_atomically(text_path(path), f'# {path} @ {stamp}\n\n{body}')
    return text_path(path)


def from_text(path, force=False):
    "The notebook with the edited text folded in: ids, tags and outputs of kept cells survive."
    if not text_path(path).exists():
        raise Fault(f'{text_path(path)} does not exist: run `python tools/nb.py text {path}`')
    head, body = text_path(path).read_text(encoding='utf-8').split('\n', 1)
    old = read(path)
    if head.split(' @ ')[-1] != digest(old) and not force:
        raise Fault(f'{path} was edited after {text_path(path)} was written: '
                    'merge by hand, or pass --force to keep the text')
    edited = jupytext.reads(body.lstrip('\n'), PERCENT)
    tags = [cell.metadata.get('tags') for cell in edited.cells]
    new = combine_inputs_with_outputs(edited, old, jupytext.formats.long_form_one_format(PERCENT))
    new.metadata = old.metadata
    before = {cell.id: cell.source for cell in old.cells}
    for cell, wanted in zip(new.cells, tags):
        cell.source = cell.source.rstrip('\n')
        cell.metadata.pop('tags', None)
        if wanted:
            cell.metadata['tags'] = wanted
        if cell.cell_type == 'code' and before.get(cell.id, '') != cell.source:
            cell.outputs, cell.execution_count = [], None
    for cell in filter(lambda cell: is_exported(cell.source), code_cells(new)):
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            raise Fault(f'{text_path(path)}: {error.msg} in the exported line '
                        f'{(error.text or "").strip()!r}: mend the text and save again') from None
    return new


def save(path, force=False):
    with lock():
        write_atomically(path, render(from_text(path, force)))
        to_text(path)
        changed = export()
    print(f'{path}: saved' + ''.join(f', {module.name} exported' for module in changed))


# ---- export -----------------------------------------------------------------------------------

def exported_anew():
    "{path in the project: text} of every module, exported from scratch in a scratch folder."
    config = project()
    root, package = config.config_path, config.lib_path
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        init = package/'__init__.py'
        for source in [root/'settings.ini', *notebooks(), *([init] if init.exists() else [])]:
            write_atomically(scratch/source.relative_to(root), source.read_bytes())
        (scratch/package.relative_to(root)).mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name != 'IN_TEST'}
        command = 'from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()'
        done = subprocess.run([sys.executable, '-c', command], cwd=scratch, env=environment,
                              capture_output=True, text=True)
        if done.returncode:
            raise Fault('nbdev_export failed: ' + done.stderr.strip().splitlines()[-1])
        return {root/module.relative_to(scratch): module.read_text(encoding='utf-8')
                for module in sorted((scratch/package.relative_to(root)).rglob('*.py'))}


def export():
    "Bring every module up to date; return those that changed, without the index."
    return [path for path, text in exported_anew().items()
            if write_atomically(path, text) and path.name != '_modidx.py']


# ---- new and run ------------------------------------------------------------------------------

def without_number(name):
    "'scales' of '00_scales': numbers give the order of rooms, and of the notebooks in one."
    return re.sub(r'^\d+_', '', name)


def new(path, module=None, no_module=False):
    "A notebook with the opening cells of the house."
    title = without_number(path.stem)
    room = [] if path.parent.resolve() == project().nbs_path else [without_number(path.parent.name)]
    module = None if no_module else module or '.'.join([*room, title])
    if module and not all(part.isidentifier() for part in module.split('.')):
        raise Fault(f'{module!r} cannot be a module name: pass --module NAME or --no-module')
    taken = {name: other for other, nb in notebooks().items() for name in modules_of(nb)}
    if module in taken:
        raise Fault(f'{taken[module]} already exports to {module}: '
                    'pass another --module NAME, or --no-module')
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    cells = [markdown(f'# {title}\n\n> One line that says what this holds.')]
    if module:
        cells += [code(f'#| default_exp {module}'),
                  code('#| hide\nfrom fastcore.test import test_close, test_eq, test_fail'),
                  code('#| export\nimport numpy as np'),
                  code('#| hide\nimport nbdev; nbdev.nbdev_export()')]
    else:
        runs = os.path.relpath(project().config_path/'runs', path.parent.resolve())
        cells += [code('scale: str = "mini"  # the name of a scale, or the path of its TOML file\n'
                       'seeds: str = ""  # such as "0,1,2"; empty: those of the scale\n'
                       f'root: str = "{runs}"  # where the stages keep their folders',
                       metadata={'tags': ['parameters']})]
    with lock():
        if path.exists():
            raise Fault(f'{path} exists already')
        fresh = nbformat.v4.new_notebook(metadata={'kernelspec': KERNEL}, cells=cells)
        write_atomically(path, render(fresh))
        print(to_text(path))


class Runner(NotebookClient):
    "Executes what nbdev_test executes; the other cells keep the outputs they have."
    flags = frozenset()

    async def async_execute_cell(self, cell, *args, **kwargs):
        if cell.cell_type == 'code' and is_skipped(cell.source, self.flags):
            return cell
        return await super().async_execute_cell(cell, *args, **kwargs)


class Kernel(AsyncKernelManager):
    "This interpreter, whatever kernel another environment has registered under the name."
    kernel_spec = KernelSpec(**get_kernel_dict())


def run(path, flags=()):
    "Execute in a fresh kernel, in the notebook's folder; `flags` are test flags to run too."
    notebook, start = read(path), time.monotonic()
    stamp = digest(notebook)
    # nbclient waits 60 s for a start and 4 s for the last output: on a busy machine both take longer
    runner = Runner(notebook, timeout=None, startup_timeout=600, iopub_timeout=600, kernel_name='python3',
                    kernel_manager_class=Kernel, resources={'metadata': {'path': str(path.parent)}})
    runner.flags = set(project().tst_flags.split()) - set(flags)
    try:
        runner.execute()
    except CellExecutionError as error:
        raise Fault(f'{error}\n{path}: left as it was, for a cell failed') from None
    for cell in notebook.cells:  # warnings and progress bars teach nobody, and name paths
        if cell.cell_type == 'code':
            cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']
    with lock():
        if digest(read(path)) != stamp:
            raise Fault(f'{path} was edited while it ran: outputs not stored, run it again')
        write_atomically(path, render(notebook))
    print(f'{path}: ran in {time.monotonic() - start:.0f} s')


# ---- check ------------------------------------------------------------------------------------

def text_outputs(cell):
    "What the cell's stored outputs say in words."
    for output in cell.outputs:
        yield output.get('text', '')
        yield from (value for kind, value in output.get('data', {}).items()
                    if kind.startswith('text/') and isinstance(value, str))


def cell_faults(cell):
    "Faults of one code cell."
    source, named = cell.source, directives(cell.source)
    lines = source.splitlines(True)
    head = lines[:first_code_ln(lines)]
    body = lines[len(head):]
    if 'injected-parameters' in cell.metadata.get('tags', []):
        yield 'papermill injected this cell: delete it'
    if any(output.output_type == 'error' for output in cell.outputs):
        yield 'stores an error: mend the cell and run the notebook'
    if any(re.match(r'\s*#\s*\|\s*\w', line) for line in body):
        yield 'a directive below the first line of code or comment is ignored: move it up'
    if any(LOCAL_PATH.search(text) for text in text_outputs(cell)):
        yield 'an output shows a path of one machine'
    if EXPORTS & named.keys():
        if any(re.match(r'\s*[%!]', line) for line in lines):
            yield 'a magic in an exported cell: nbdev_export would fail on it'
        if (length := len(''.join(body).strip().splitlines())) > LONGEST_EXPORT:
            yield f'exports {length} lines: split what is over {LONGEST_EXPORT}'


def public_names(source):
    "The names that a cell adds to the module's `__all__`."
    for node in ast.parse(source).body:
        targets = ([node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef,
                                                    ast.AsyncFunctionDef)) else
                   [leaf.id for target in node.targets for leaf in ast.walk(target)
                    if isinstance(leaf, ast.Name) and isinstance(leaf.ctx, ast.Store)]
                   if isinstance(node, ast.Assign) else
                   [node.target.id] if isinstance(node, ast.AnnAssign)
                   and isinstance(node.target, ast.Name) else [])
        yield from (name for name in targets if not name.startswith('_'))


def without_imports(source):
    "The cell less its import statements: importing a name does not test it."
    try:
        tree = ast.parse(source)
    except SyntaxError:  # magics
        return source
    kept = [node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    return '\n'.join(ast.get_source_segment(source, node) for node in kept)


def untested_names(notebook, flags):
    "Exported public names that no executed, unexported cell mentions."
    cells = [cell.source for cell in code_cells(notebook)]
    tests = '\n'.join(without_imports(source) for source in cells
                      if not is_exported(source) and not is_skipped(source, flags))
    exported = [source for source in cells if {'export', 'exports'} & directives(source).keys()]
    for source in exported:
        try:
            names = list(public_names(source))
        except SyntaxError:  # already a fault of the cell
            continue
        yield from (name for name in names if not re.search(rf'\b{re.escape(name)}\b', tests))


def notebook_faults(content, flags):
    "Faults that show in one notebook alone, given its file's content."
    notebook = nbformat.from_dict(json.loads(content))  # nbformat.read would mend what is wrong
    for cell in notebook.cells:
        cell.source = ''.join(cell.source)
        for output in cell.get('outputs', []):
            if 'text' in output:
                output.text = ''.join(output.text)
            for kind, value in output.get('data', {}).items():
                output.data[kind] = ''.join(value) if isinstance(value, list) else value
    if notebook.metadata.get('kernelspec', {}).get('name') != 'python3':
        yield 'its kernel is not python3'
    if extra := sorted(set(notebook.metadata) - {'kernelspec'}):
        yield f'notebook metadata besides the kernel: {", ".join(extra)}'
    if (size := len(content.encode())) > LARGEST_NOTEBOOK:
        yield f'{size // 1000} kB: make the outputs smaller, {LARGEST_NOTEBOOK // 1000} at most'
    for cell_id, count in Counter(cell.get('id') for cell in notebook.cells).items():
        if cell_id is None:
            yield f'{count} cells without an id'
        elif count > 1:
            yield f'{count} cells share the id {cell_id}'
    for cell in notebook.cells:
        faults = list(cell_faults(cell)) if cell.cell_type == 'code' else []
        if LOCAL_PATH.search(cell.source):
            faults.append('names a path of one machine')
        if word := UNFINISHED.search(cell.source):
            faults.append(f'says {word[0]}')
        yield from (f'cell {cell.get("id")}: {fault}' for fault in faults)
    exporting = [cell for cell in code_cells(notebook) if is_exported(cell.source)]
    if module_of(notebook) is None:
        if any(not args for cell in exporting for name, args in directives(cell.source).items()
               if name in EXPORTS):
            yield 'exports cells but has no `#| default_exp`'
    else:
        yield from (f'{name} is exported but no test cell mentions it'
                    for name in untested_names(notebook, flags))


def wide_lines(text):
    "Numbers, from 1, of the lines of a text that are wider than `WIDEST` characters."
    return [number for number, line in enumerate(text.splitlines(), 1) if len(line) > WIDEST]


def width_faults(shelf):
    "Lines that are too wide: in the cells of notebooks, and in the Python files that no notebook makes."
    root = project().config_path
    for path, notebook in shelf.items():
        for cell in notebook.cells:
            if wide := wide_lines(cell.source):
                yield f'{path.name}: cell {cell.get("id")}: over {WIDEST} characters in line {wide[0]}'
    for path in sorted([*root.glob('*.py'), *root.glob('tests/**/*.py'), *root.glob('tools/**/*.py')]):
        if wide := wide_lines(path.read_text(encoding='utf-8')):
            yield f'{path.relative_to(root)}: over {WIDEST} characters in line {wide[0]}'


def comes_later(other, path):
    "Whether a notebook stands in a later room, or behind the other in a room whose notebooks have numbers."
    if other.parent != path.parent:
        return other.parent.name > path.parent.name
    return bool(re.match(r'\d', path.name)) and other.name > path.name


def shelf_faults(shelf, package):
    "Faults between notebooks: two that claim one module, imports against the reading order."
    home = {}
    for path, notebook in shelf.items():
        if (module := module_of(notebook)) and module in home:
            yield f'{path.name}: {home[module].name} exports to {module} too'
        home.update({name: path for name in modules_of(notebook) if name not in home})
    pattern = re.compile(rf'^\s*(?:from|import)\s+{package}\.([\w.]+)', re.M)
    home |= {name.removesuffix('.__init__'): path for name, path in home.items()}
    for path, notebook in shelf.items():
        sources = (cell.source for cell in code_cells(notebook) if is_exported(cell.source))
        for module in sorted({m for source in sources for m in pattern.findall(source)}):
            if comes_later(home.get(module, path), path):
                yield f'{path.name}: imports {module}, which a later notebook makes'


def module_faults(package):
    "Modules that are not what their notebooks export, or that no notebook exports."
    fresh = exported_anew()
    for path in sorted({*fresh, *package.rglob('*.py')}):
        name = path.relative_to(package.parent)
        if path not in fresh:
            yield f'{name}: no notebook exports this module: delete it, or bring its notebook back'
        elif not path.exists():
            yield f'{name}: is missing: run nbdev_export'
        elif path.read_text(encoding='utf-8') != fresh[path]:
            yield (f'{name}: differs from its notebook: nbdev_export keeps the notebook, '
                   'nbdev_update the module')


def faults():
    "All faults of the project, each in one line."
    config, shelf = project(), notebooks()
    flags = set(config.tst_flags.split())
    for path, notebook in shelf.items():
        content = path.read_text(encoding='utf-8')
        problems = list(notebook_faults(content, flags))
        if not problems and render(notebook) != content:
            problems = ['not clean: run nbdev_clean']
        yield from (f'{path.name}: {fault}' for fault in problems)
    yield from shelf_faults(shelf, config.lib_path.name)
    yield from width_faults(shelf)
    try:
        yield from module_faults(config.lib_path)
    except Fault as fault:
        yield str(fault)


def check():
    start = time.monotonic()
    if problems := list(faults()):
        raise Fault('\n'.join(problems))
    print(f'{len(notebooks())} notebooks and {project().lib_path.name}/ agree '
          f'({time.monotonic() - start:.1f} s)')


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='text|save|run|new|check')
    for verb in ('text', 'save', 'run'):
        verbs.add_parser(verb).add_argument('notebooks', nargs='+', type=Path)
    verbs.choices['save'].add_argument('--force', action='store_true',
                                       help='keep the text though the notebook changed meanwhile')
    verbs.choices['run'].add_argument('--flags', default='', help='test flags to run too')
    start = verbs.add_parser('new')
    start.add_argument('notebooks', nargs=1, type=Path)
    kind = start.add_mutually_exclusive_group()
    kind.add_argument('--module', help='where to export, if not to the name of the file')
    kind.add_argument('--no-module', action='store_true', help='export nothing')
    verbs.add_parser('check')
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse_arguments(arguments)
    try:
        if args.verb == 'check':
            check()
        for path in getattr(args, 'notebooks', []):
            if args.verb == 'text':
                with lock():
                    print(to_text(path))
            elif args.verb == 'save':
                save(path, args.force)
            elif args.verb == 'run':
                run(path, args.flags.split())
            else:
                new(path, args.module, args.no_module)
    except Fault as fault:
        sys.exit(str(fault))


if __name__ == '__main__':
    main()
