"""Pages for readers, made from the outputs stored in the notebooks: nothing is executed.

    python tools/book.py html              the book: open _book/html/index.html
    python tools/book.py readme            README.md and paper_figures/README.md, from nbs/index.ipynb and
                                           nbs/results.ipynb; their images go to nbs/index_files/
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

# Notebooks outside the rooms, and the page that is made of each.
PAGES_OF = {'index.ipynb': 'README.md', 'results.ipynb': 'paper_figures/README.md'}
IMAGES = 'index_files'  # beside the notebooks
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
    flags = directives(cell.source)
    if {'default_exp', 'hide'} & flags.keys() or 'nbdev_export(' in cell.source:
        return None
    hidden = cell.source.lstrip().startswith('show_doc(') or flags.get('echo:') == ['false']
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


def move_links(notebook, folder, target, pages=None):
    """Let the links of a notebook in `folder` start at the folder `target`.

    `pages`: {file that is linked to: what is meant}."""
    def moved(match):
        linked = Path(os.path.normpath(folder/match[2]))
        return match[1] + os.path.relpath((pages or {}).get(linked, linked), target) + '/'*match[2].endswith('/')

    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            cell.source = LOCAL_LINK.sub(moved, cell.source)


# ---- README -----------------------------------------------------------------------------------

def pages_made():
    "{notebook outside the rooms: the page that is made of it}."
    config = project()
    return {config.nbs_path/name: config.config_path/page for name, page in PAGES_OF.items()
            if (config.nbs_path/name).exists()}


def page_files(source, page, pages):
    "{path: bytes} of the page made from one notebook, and of its images."
    config = project()
    notebook = readers_view(read(source))
    for target in local_links(notebook):
        if not (source.parent/target).exists():
            raise Fault(f'{source.name} links to {target}, which does not exist')

    move_links(notebook, source.parent, page.parent, pages)
    exporter = MarkdownExporter(config={
        'NbConvertBase': {'display_data_priority': FORMATS},
        'TagRemovePreprocessor': {'enabled': True, 'remove_input_tags': {'remove-input'}}})
    images = os.path.relpath(config.nbs_path/IMAGES, page.parent)
    text, resources = exporter.from_notebook_node(
        notebook, {'unique_key': source.stem, 'output_files_dir': images})
    head = f'<!-- made by tools/book.py: edit {config.nbs_path.name}/{source.name} -->'
    text = re.sub(r'^[ \t]+$', '', text, flags=re.M)
    text = re.sub(r'\n{3,}', '\n\n', text)
    files = {Path(os.path.normpath(page.parent/name)): data for name, data in resources['outputs'].items()}
    return {page: f'{head}\n\n{text.strip()}\n'.encode(), **files}


def readme_files():
    "{path: bytes} of the pages and their images."
    pages = pages_made()
    return {path: data for source, page in pages.items() for path, data in page_files(source, page, pages).items()}


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
    print(', '.join(names) + ': written' if names else 'the pages: nothing changed')


# ---- book -------------------------------------------------------------------------------------

def parts(paths):
    "{name of a room: its notebooks}, in reading order; the results come last."
    shelf = {}
    for path in sorted(paths):
        outside = path.parent == project().nbs_path
        if outside and path.name not in PAGES_OF:
            raise Fault(f'{path.name}: move it into a room, a folder such as 1_data')
        shelf.setdefault('Results' if outside else without_number(path.parent.name).capitalize(), []).append(path)
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
    root = config.config_path
    shelf = {path: readers_view(nb) for path, nb in notebooks().items()}
    front = config.nbs_path/config.readme_nb
    rooms = {path: nb for path, nb in shelf.items() if path != front}
    opening = shelf[front]
    move_links(opening, front.parent, root)
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
    about = {'project': config.title, 'html_title': config.title,
             'author': config.author, 'copyright': config.copyright}
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
