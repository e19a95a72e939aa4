"""The table of hostile names through every output of the commands: each is read back by a parser of its own kind."""
import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
import typer
from hostile_names import BROKEN, FILES, NAMES
from markdown_it import MarkdownIt
from PIL import Image

from synood.app.commands import as_text, commands, encode_table
from synood.detector.demo import render_answer
from synood.detector import OODDetector
from synood.app.page import read_table_file, write_page
from synood.evaluation.report import figures_folder, latex, markdown, save_table

MORE = {'emphasis': '**bold** _it_ ~~gone~~', 'tilde': 'a~b^c', 'bracket': '[1]', 'star': '*x', 'command': r'\input{x}',
        'tab first': '\t=1', 'return first': '\r=1', 'wide equals': '\uff1d1', 'climb': 'a..b', 'escape': '\x1b[31mred',
        'next line': 'a\x85b', 'two lines': 'a\r\nb',
        'nan': 'nan', 'number': '1e5', 'template': '{{value}}${1+1}', 'last letter': 'caf\udce9'}
TEXTS = {**NAMES, **BROKEN, **MORE}
DRAWN = {TEXTS[key] for key in ('dollars', 'formula', 'html', 'backslash', 'percent', 'long', 'arabic', 'emphasis',
                                'command', 'template', 'bracket')}
FORMULA = tuple('=+-@\t\r\n\uff1d\uff0b\uff0d\uff20')
UNPRINTABLE = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]')


def one_line(text): return ' '.join(UNPRINTABLE.sub('\ufffd', ' '.join(text.splitlines())).split())


def in_html(text): return ' '.join(UNPRINTABLE.sub('\ufffd', text).split())


class Cells(HTMLParser):
    "The texts of the cells of HTML tables, and all tags that were seen."
    def __init__(self, text):
        super().__init__()
        self.cells = []
        self.tags = set()
        self.attributes = []
        self.words = []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        self.tags.add(name)
        self.attributes += attributes
        if name in ('td', 'th'):
            self.cells.append('')
            self.inside = True

    def handle_endtag(self, name):
        if name in ('td', 'th'): self.inside = False

    def handle_data(self, data):
        self.words.append(data)
        if self.inside: self.cells[-1] += data


@pytest.fixture(scope='module')
def detector(): return OODDetector.from_names(['cat', 'house', 'tree'], 'mini')


@pytest.fixture(scope='module')
def kept(detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp('kept')/'detector'
    detector.save(folder)
    return folder


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "A small picture under every hostile name, and one that is none."
    folder = tmp_path_factory.mktemp('hostile')/'=photos'
    folder.mkdir()
    for i, name in enumerate({**FILES, **MORE}.values()):
        Image.new('RGB', (16, 16), (5*i % 256, 99, 200)).save(folder/f'{name.replace("/", ":")}.png')
    (folder/'=broken\r\n.png').write_text('<html>')
    return folder


def score(*arguments):
    "Status of `score`, run in this process."
    app = typer.Typer(callback=lambda: None)
    app.add_typer(commands)
    return app(['score', *map(str, arguments)], standalone_mode=False) or 0


def test_every_form_of_a_table_gives_every_name_back(photos, kept, tmp_path):
    wanted = sorted(str(p) for p in photos.iterdir())
    for name in ('t.csv', 't.csv.gz', 't.jsonl', 't.jsonl.gz'):
        assert score(photos, '--detector', kept, '--out', tmp_path/name, '--batch', 7) == 1
        raw = (tmp_path/name).read_bytes()
        text = (gzip.decompress(raw) if name.endswith('.gz') else raw).decode('utf-8', 'surrogateescape')
        if 'csv' in name:
            rows = list(csv.DictReader(io.StringIO(text, newline='')))
            paths = [row['path'] for row in rows]
            assert all(row['problem'] or 0 <= float(row['score']) <= 1 for row in rows)
        else:
            rows = [json.loads(line, parse_constant=pytest.fail) for line in text.split('\n')[:-1]]
            assert text.isascii() and len(text.splitlines()) == len(rows)
            paths = [row['path'] for row in rows]
        assert sorted(paths) == wanted and sum(bool(row['problem']) for row in rows) == 1
        assert all(os.path.exists(path) for path in paths)


def test_standard_output_holds_the_same_bytes_in_any_locale(photos, kept, tmp_path):
    score(photos, '--detector', kept, '--out', tmp_path/'t.csv')
    for setting in (dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0'), dict(PYTHONIOENCODING='latin-1')):
        done = subprocess.run([sys.executable, '-m', 'synood', 'score', photos, '--detector', kept, '--out', '-'],
                              capture_output=True, env=os.environ | setting)
        assert done.returncode == 1 and b'Traceback' not in done.stderr, done.stderr
        assert done.stdout == (tmp_path/'t.csv').read_bytes()


def test_no_cell_is_a_formula_for_a_spreadsheet(photos, kept, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    assert score('.', '--detector', kept, '--out', tmp_path/'t.csv', '--spreadsheet') == 1
    text = (tmp_path/'t.csv').read_bytes().decode('utf-8', 'surrogateescape')
    rows = list(csv.reader(io.StringIO(text.removeprefix('\ufeff'), newline='')))
    assert text[0] == '\ufeff' and len(rows) == 1 + len(list(photos.iterdir()))
    assert not [cell for row in rows for cell in row if cell.startswith(FORMULA)]
    assert score('.', '--detector', kept, '--out', tmp_path/'plain.csv') == 1
    rows = csv.DictReader((tmp_path/'plain.csv').open(newline='', errors='surrogateescape'))
    assert any(row['path'].startswith('=') for row in rows)


def test_labels_of_a_stranger_pass_through_tables_and_figure(detector, photos):
    for name in TEXTS.values():
        odd = replace(detector, names=(name, 'house', 'tree'),
                      negative_names=tuple(f'{name} {i}' for i in range(len(detector.negative_names))))
        table = pd.DataFrame(dict(path=['a'], score=[.5], is_ood=[None], label=[name], negative=[f'{name} 1'],
                                  problem=['']))
        assert next(csv.reader(io.StringIO(as_text(table, False), newline='')))[3] == name
        assert json.loads(as_text(table, True))['label'] == name
        assert encode_table(table, False).decode('utf-8', 'surrogateescape').count('\n') == 1 + 2*name.count('\n')
        if name not in DRAWN: continue
        try: why = odd.explain(Image.new('RGB', (16, 16)))
        except ValueError as e:  # names that no class may have, or that CLIP reads as another
            assert len(str(e).splitlines()) == 1
            continue
        why.figure().savefig(io.BytesIO())


def test_the_demo_shows_them_and_nothing_more(detector, photos, tmp_path):
    allowed = Cells(render_answer(detector, Image.new('RGB', (16, 16)))).tags
    for name in TEXTS.values():
        why = detector.explain(Image.new('RGB', (16, 16)), 200)
        odd = replace(why, labels=why.labels.assign(label=[f'{name} {i}' for i in range(len(why.labels))]))
        shown = render_answer(_Explained(detector, odd), Image.new('RGB', (16, 16)), name)
        shown.encode('utf-8')
        page = Cells(shown)
        assert page.tags <= allowed and not [key for key, _ in page.attributes if key.startswith('on')]
        assert in_html(f'{name} 0') in in_html(' '.join(page.words)), name
    for path in photos.iterdir():
        page = Cells(render_answer(detector, path))
        assert page.tags <= allowed | {'p', 'b'} and not [key for key, _ in page.attributes if key.startswith('on')]


class _Explained:
    "A detector whose explanation is given."
    def __init__(self, detector, why):
        self._detector = detector
        self._why = why

    def explain(self, *args): return self._why
    def __getattr__(self, name): return getattr(self._detector, name)


def hostile_frame():
    texts = list(TEXTS.values())
    return pd.DataFrame({'method': texts, NAMES['html']: texts[::-1],
                         'far auroc': [f'{i}.00 ± 1.00' for i in range(len(texts))]})


def test_markdown_shows_them():
    frame = hostile_frame()
    for mark in (False, True):
        reader = MarkdownIt('commonmark', {'html': True}).enable(['table', 'strikethrough'])
        page = Cells(reader.render(markdown(frame, mark)))
        assert page.tags <= {'table', 'thead', 'tbody', 'tr', 'th', 'td'} | ({'strong', 'em'} if mark else set())
        wanted = [one_line(str(cell)) for cell in [*frame.columns, *frame.values.ravel()]]
        assert [one_line(cell) for cell in page.cells] == wanted


TEX = {r'\textbackslash{}': '\\', r'\textasciitilde{}': '~', r'\textasciicircum{}': '^', r'\textless{}': '<',
       r'\textgreater{}': '>', r'\textbar{}': '|', r'$\pm$': '±',
       **{f'\\{c}': c for c in '{}$&#%_'}}


def test_latex_sets_them():
    frame = hostile_frame()
    text = latex(frame, NAMES['formula'], 'x')
    table = text.split('\\toprule\n')[1].split('\n\\bottomrule')[0].replace('\\midrule\n', '')
    rows = [re.split(r' & ', row) for row in table.removesuffix(r' \\').split(' \\\\\n')]
    wanted = [list(frame.columns), *frame.values.tolist()]
    assert len(rows) == len(wanted)
    for cells, texts in zip(rows, wanted):
        assert len(cells) == 3 and not cells[0].startswith(('[', '*'))
        for cell, text in zip(cells, texts):
            pieces = re.findall('|'.join(map(re.escape, sorted(TEX, key=len, reverse=True))) + r'|^\{\}|[^\\{}$&#%_~^]',
                                cell)
            assert ''.join(pieces) == cell  # nothing but letters and commands that are known
            assert one_line(''.join('' if p == '{}' else TEX.get(p, p) for p in pieces)) == one_line(text)


def test_report_shows_every_cell(tmp_path):
    frame, root = hostile_frame().set_index('method'), tmp_path/'runs'
    save_table(frame, 'mine', 'smoke', root, f'a caption\n\n| {NAMES["html"]}', mark=True)
    folder = figures_folder('smoke', root)
    sheet = read_table_file(folder/'mine.csv')
    assert not sheet.fault and sheet.rows == [[cell.replace('\ud800', '\ufffd') for cell in row]
                                              for row in hostile_frame().values]
    page = Cells(write_page('smoke', root).read_text(encoding='utf-8'))
    assert 'script' not in page.tags and not [key for key, _ in page.attributes if key.startswith('on')]
    assert {in_html(text) for text in TEXTS.values()} <= {in_html(cell) for cell in page.cells}
    assert any((value or '').startswith("default-src 'none'") for _, value in page.attributes)
