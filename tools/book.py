"""Pages for readers, made from the outputs stored in the notebooks: nothing is executed.

    python tools/book.py html              the book: open _book/html/index.html
    python tools/book.py readme            README.md and index_files/, from nbs/index.ipynb
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
from nb import Fault, directives, notebooks, project, read, write_atomically
from nbconvert import MarkdownExporter

IMAGES = 'index_files'
# The same picture in several formats is shown once, in the first of these; tables as Markdown or
# plain text, because HTML tables carry style sheets that a README shows as words.
FORMATS = ['text/markdown', 'image/svg+xml', 'image/png', 'image/jpeg', 'text/plain']
BOOK_MODULES = 'myst_nb', 'sphinx_book_theme', 'sphinx-mathjax-offline'
LOCAL_LINK = re.compile(r'(\]\(|\bsrc="|\bhref=")(?![a-z]+:|#|/)([^)\s"#]+)')
FOLDER_LINK = re.compile(r'\[([^]]+)\]\((?![a-z]+:)[^)\s]+/\)')  # a book has no page for it
CONFIGURATION = """\
project, author, copyright = {title!r}, {author!r}, {copyright!r}
html_title, html_theme = project, 'sphinx_book_theme'
html_theme_options = {{'show_toc_level': 2, 'use_download_button': False, 'navbar_persistent': []}}
extensions = ['myst_nb', 'sphinx-mathjax-offline']
nb_execution_mode, nb_merge_streams, nb_output_stderr = 'off', True, 'remove'
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'deflist']
myst_heading_anchors = 3
suppress_warnings = ['mystnb.unknown_mime_type']
"""
CONTENTS = """\
# {title}

{description}.

```{{toctree}}
:maxdepth: 2
:numbered:
{pages}
```
"""


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


# ---- README -----------------------------------------------------------------------------------

def readme_files():
    "{path: bytes} of README.md and its images."
    config = project()
    root, source = config.config_path, config.nbs_path/config.readme_nb
    notebook = readers_view(read(source))
    for target in local_links(notebook):
        if not (source.parent/target).exists():
            raise Fault(f'{source.name} links to {target}, which does not exist')

    def from_root(match):
        return match[1] + os.path.relpath(source.parent/match[2], root)

    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            cell.source = LOCAL_LINK.sub(from_root, cell.source)
    exporter = MarkdownExporter(config={
        'NbConvertBase': {'display_data_priority': FORMATS},
        'TagRemovePreprocessor': {'enabled': True, 'remove_input_tags': {'remove-input'}}})
    text, resources = exporter.from_notebook_node(
        notebook, {'unique_key': 'index', 'output_files_dir': IMAGES})
    head = f'<!-- made by tools/book.py: edit {config.nbs_path.name}/{source.name} -->'
    text = re.sub(r'^[ \t]+$', '', text, flags=re.M)
    text = re.sub(r'\n{3,}', '\n\n', text)
    files = {root/name: data for name, data in resources['outputs'].items()}
    return {root/'README.md': f'{head}\n\n{text.strip()}\n'.encode(), **files}


def readme(check=False):
    root, files = project().config_path, readme_files()
    stale = sorted(set((root/IMAGES).glob('*')) - set(files))
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

def html():
    "Build the book from copies that lie to each other as the originals do, so that links hold."
    missing = [name for name in BOOK_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise Fault('the book needs Sphinx and its theme: '
                    "pip install -c constraints.txt -e '.[book]'")
    config = project()
    root, book = config.config_path, config.config_path/'_book'
    source = book/'source'
    shutil.rmtree(book, ignore_errors=True)
    shelf = notebooks()
    index = config.nbs_path/config.readme_nb
    order = sorted(shelf, key=lambda path: (path != index, path.name))
    for path in order:
        notebook = readers_view(shelf[path])
        for cell in notebook.cells:
            if cell.cell_type == 'markdown':
                cell.source = FOLDER_LINK.sub(r'\1', cell.source)
        for target in local_links(notebook):
            linked = Path(os.path.normpath(path.parent/target))
            if linked.is_file() and linked.suffix != '.ipynb':
                write_atomically(source/linked.relative_to(root), linked.read_bytes())
        write_atomically(source/path.relative_to(root), nbformat.writes(notebook))
    about = {key: config[key] for key in ('title', 'author', 'copyright', 'description')}
    pages = '\n'.join(str(path.relative_to(root).with_suffix('')) for path in order)
    write_atomically(source/'conf.py', CONFIGURATION.format(**about))
    write_atomically(source/'index.md', CONTENTS.format(pages=pages, **about))
    done = subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html',
                           source, book/'html'])
    if done.returncode:
        raise Fault('the book has the faults named above')
    print((book/'html'/'index.html').relative_to(root))


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
