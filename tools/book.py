"""Pages for readers, made from the outputs stored in the notebooks: nothing is executed.

    python tools/book.py html              the book: open _book/html/index.html
    python tools/book.py readme            README.md and nbs/index_files/, from nbs/index.ipynb
    python tools/book.py readme --check    fail if they differ from what `readme` would write
"""
import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nb import Fault, directives, notebooks, project, read, without_number, write_atomically
from nbconvert import MarkdownExporter

IMAGES = 'index_files'  # beside the notebook
# The same picture in several formats is shown once, in the first of these; tables as Markdown or
# plain text, because HTML tables carry style sheets that a README shows as words.
FORMATS = ['text/markdown', 'image/svg+xml', 'image/png', 'image/jpeg', 'text/plain']
BOOK_MODULES = 'myst_nb', 'sphinx_book_theme', 'sphinx-mathjax-offline'
LOCAL_LINK = re.compile(r'(\]\(|\bsrc="|\bhref=")(?![a-z]+:|#|/)([^)\s"#]+)')
FOLDER_LINK = re.compile(r'\[([^]]+)\]\((?![a-z]+:)[^)\s]+/\)')  # a book has no page for it
SPHINX = Path(__file__).parent/'docs'  # conf.py and the style sheet
PAGES = 'CONTRIBUTING.md', 'CHANGELOG.md'  # of the root; they make the last part


def readers_cell(cell):
    "The cell as a reader sees it, without directives; None if it is machinery."
    if cell.cell_type != 'code':
        return cell
    found = directives(cell.source)
    if {'default_exp', 'hide'} & found.keys() or 'nbdev_export(' in cell.source:
        return None
    hidden = cell.source.lstrip().startswith('show_doc(') or found.get('echo:') == ['false']
    cell.metadata['tags'] = [*cell.metadata.get('tags', []), *(['remove-input'] if hidden else [])]
    cell.source = re.sub(r'\A(?:\s*#\s*\|.*\n?)+', '', cell.source)
    cell.outputs = [output for output in cell.outputs if output.get('name') != 'stderr']
    return cell if cell.source.strip() or cell.outputs else None


def readers_view(notebook):
    notebook.cells = [cell for cell in map(readers_cell, notebook.cells) if cell]
    notebook.metadata['language_info'] = {'name': 'python'}  # names the language of code fences
    return notebook


def local_links(notebook):
    "Targets of the links in prose that lead to files of the project."
    return [target for cell in notebook.cells if cell.cell_type == 'markdown'
            for _, target in LOCAL_LINK.findall(cell.source)]


def links_from_root(notebook, folder):
    "Let the links of a notebook in `folder` start at the root of the project."
    def from_root(match):
        return match[1] + os.path.relpath(folder/match[2], project().config_path)

    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            cell.source = LOCAL_LINK.sub(from_root, cell.source)


# ---- README -----------------------------------------------------------------------------------

def readme_files():
    "{path: bytes} of README.md and its images."
    config = project()
    root, source = config.config_path, config.nbs_path/config.readme_nb
    notebook = readers_view(read(source))
    for target in local_links(notebook):
        if not (source.parent/target).exists():
            raise Fault(f'{source.name} links to {target}, which does not exist')

    links_from_root(notebook, source.parent)
    exporter = MarkdownExporter(config={
        'NbConvertBase': {'display_data_priority': FORMATS},
        'TagRemovePreprocessor': {'enabled': True, 'remove_input_tags': {'remove-input'}}})
    text, resources = exporter.from_notebook_node(
        notebook, {'unique_key': 'index', 'output_files_dir': f'{config.nbs_path.name}/{IMAGES}'})
    head = f'<!-- made by tools/book.py: edit {config.nbs_path.name}/{source.name} -->'
    text = re.sub(r'^[ \t]+$', '', text, flags=re.M)
    text = re.sub(r'\n{3,}', '\n\n', text)
    files = {root/name: data for name, data in resources['outputs'].items()}
    return {root/'README.md': f'{head}\n\n{text.strip()}\n'.encode(), **files}


def readme(check=False):
    root, files = project().config_path, readme_files()
    stale = sorted(set((project().nbs_path/IMAGES).glob('*')) - set(files))
    if check:
        differing = stale + [path for path, data in files.items()
                             if not path.exists() or path.read_bytes() != data]
        if differing:
            names = ', '.join(str(path.relative_to(root)) for path in differing)
            raise Fault(f'{names}: not what the notebook gives: run `make readme`')
        return
    changed = [path for path, data in files.items() if write_atomically(path, data)]
    for path in stale:
        path.unlink()
    names = [str(path.relative_to(root)) for path in changed + stale]
    print(', '.join(names) + ': written' if names else 'README.md: nothing changed')


# ---- book -------------------------------------------------------------------------------------

def parts(paths):
    "{name of a room: its notebooks}, in reading order."
    shelf = {}
    for path in sorted(paths):
        if path.parent == project().nbs_path:
            raise Fault(f'{path.name}: move it into a room, a folder such as 1_data')
        shelf.setdefault(without_number(path.parent.name).capitalize(), []).append(path)
    return shelf


def contents(paths, root):
    "The tables of contents as Markdown, one for each part; the side bar shows them."
    groups = parts(paths)
    if pages := [root/name for name in PAGES if (root/name).exists()]:
        groups['The project'] = pages
    return '\n\n'.join(
        '\n'.join(['```{toctree}', ':hidden:', f':caption: {name}', '',
                   *(str(path.relative_to(root).with_suffix('')) for path in group), '```'])
        for name, group in groups.items())


def write_source(source):
    "Write copies that lie to each other as the originals do, so that links hold; the front page goes to the top."
    config = project()
    root, shelf = config.config_path, {path: readers_view(nb) for path, nb in notebooks().items()}
    front = config.nbs_path/config.readme_nb
    rooms = {path: nb for path, nb in shelf.items() if path != front}
    opening = shelf[front]
    links_from_root(opening, front.parent)
    opening.cells.append(nbformat.v4.new_markdown_cell(contents(rooms, root)))
    texts = {root/name: nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell((root/name).read_text('utf-8'))])
             for name in PAGES if (root/name).exists()}
    for path, notebook in {**rooms, root/front.name: opening, **texts}.items():
        for cell in notebook.cells:
            if cell.cell_type == 'markdown':
                cell.source = FOLDER_LINK.sub(r'\1', cell.source)
        for target in local_links(notebook):
            linked = Path(os.path.normpath(path.parent/target))
            if linked.is_file() and linked.suffix != '.ipynb' and linked not in texts:
                write_atomically(source/linked.relative_to(root), linked.read_bytes())
        content = notebook.cells[0].source if path in texts else nbformat.writes(notebook)
        write_atomically(source/path.relative_to(root), content)


def html():
    "Build the book; a warning of Sphinx is a fault."
    missing = [name for name in BOOK_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise Fault('the book needs Sphinx and its theme: '
                    "pip install -c constraints.txt -e '.[docs]'")
    config = project()
    book = config.config_path/'_book'
    shutil.rmtree(book, ignore_errors=True)
    write_source(book/'source')
    about = {'project': config.title, 'html_title': config.title, 'author': config.author, 'copyright': config.copyright}
    done = subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html', '-c', SPHINX,
                           *(word for name, value in about.items() for word in ('-D', f'{name}={value}')),
                           book/'source', book/'html'])
    if done.returncode:
        raise Fault('the book has the faults named above')
    print((book/'html'/'index.html').relative_to(config.config_path))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='html|readme')
    verbs.add_parser('html')
    verbs.add_parser('readme').add_argument('--check', action='store_true')
    args = parser.parse_args(arguments)
    try:
        html() if args.verb == 'html' else readme(args.check)
    except Fault as fault:
        sys.exit(str(fault))


if __name__ == '__main__':
    main()
