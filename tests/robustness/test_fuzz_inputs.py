"""Settings, names, stage files, rows and saved detectors with random damage.

They are accepted and sound, or refused in one line that says where."""
import json
import math
import shutil
import warnings
from dataclasses import replace
from io import StringIO

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from safetensors.numpy import load_file, save

from synood.app.cli import main
from synood.detector import OODDetector
from synood.outliers.finetuning import Projection
from synood.data.images import ImageSet, read_sets, read_selection, write_sets
from synood.core.rows import ROW_COLUMNS, Rows, merge_rows, publish_rows, read_rows
from synood.core.scales import Scale, check_scale, get_scale, setting_names
from synood.outliers.synthesis import read_synthetic, write_records


def examples(few, many):
    "Short and always the same, or long and different every time."
    kept = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
    short = settings(kept, max_examples=few, derandomize=True)
    long = pytest.param(settings(kept, max_examples=many), marks=pytest.mark.slow)
    return pytest.mark.parametrize('examples', [short, long], ids=['few', 'many'])


def outcome(work, *where):
    "What `work` returns, or None if it refuses in one line that holds every text of `where`."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: return work()
        except (ValueError, OSError) as e:
            message = str(e)
            assert message and len(message.splitlines()) == 1 and len(message) < 3000, message
            assert all(str(part) in message for part in where), message


NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 10**30, 10**400, math.nan, math.inf, 1e308]))
TEXTS = st.sampled_from(['..', '/', '~nobody/x', '\0', 'a\nb', 'embedded:x', 'random:x'])
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), TEXTS)


def nested(inner): return st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)


VALUES = st.recursive(LEAVES, nested, max_leaves=6)
FIELDS = setting_names()


def toml(value):
    if isinstance(value, bool): return str(value).lower()
    if isinstance(value, float) and math.isfinite(value): return f'{value:e}'
    if isinstance(value, (int, float)): return str(value)
    if isinstance(value, list): return '[' + ', '.join(map(toml, value)) + ']'
    if isinstance(value, dict): return '{' + ', '.join(f'{toml(k)} = {toml(v)}' for k, v in value.items()) + '}'
    return json.dumps('' if value is None else value)  # its escapes are TOML's, but for halves of pairs


def like(value):
    "Values of the right type, so that the rules behind the types are reached too."
    if isinstance(value, tuple): return st.lists(like(value[0]) if value else st.text(max_size=5), max_size=4)
    return {bool: st.booleans(), int: st.integers(), float: NUMBERS, str: st.text(max_size=8)}.get(type(value), NUMBERS)


@examples(100, 3000)
def test_settings(examples, tmp_path):
    file = tmp_path/'mine.toml'

    @examples
    @given(st.data(), st.lists(st.sampled_from([*FIELDS, 'base']), max_size=3, unique=True), st.booleans())
    def holds(data, keys, right):
        values = {}
        for key in keys:
            default = 'mini' if key == 'base' else Scale().get(key)
            values[key] = data.draw(like(default) if right else VALUES)
        if not right: values |= data.draw(st.dictionaries(st.text(max_size=5), VALUES, max_size=1))
        text = '\n'.join(f'{toml(key)} = {toml(value)}' for key, value in values.items())
        file.write_text(text, encoding='utf-8', errors='surrogatepass')
        scale = outcome(lambda: get_scale(file), file)
        if scale is not None: assert outcome(lambda: check_scale(scale)) == scale
    holds()


@examples(60, 3000)
def test_settings_of_any_bytes(examples, tmp_path):
    file = tmp_path/'mine.toml'
    good = b'base = "smoke"\nm = 20\nnpos.lr = 1e-3\nseeds = [0, 1]\nclip = ["embedded:clip"]\n'

    @examples
    @given(st.binary(max_size=20), st.integers(0, len(good)), st.integers(0, 12))
    def holds(some, place, lost):
        file.write_bytes(good[:place] + some + good[place + lost:])
        scale = outcome(lambda: get_scale(file), file)
        if scale is not None: assert check_scale(scale) == scale
    holds()


ENDLESS = {'lists': 'm = ' + '['*50_000,
           'tables': 'm' + '.a'*2_000 + ' = 1',
           'digits': 'm = ' + '9'*5_000,
           'float': 'npos.lr = 1' + '0'*400,
           'hexadecimal': 'm = 0x' + 'f'*50_000,
           'key': '"a\\nb" = 1',
           'name': 'name = "a\\nb"',
           'long': 'x'*1_000_000}


@pytest.mark.parametrize('kind', ENDLESS)
def test_settings_without_end(kind, tmp_path):
    (tmp_path/'mine.toml').write_text(ENDLESS[kind])
    assert outcome(lambda: get_scale(tmp_path/'mine.toml'), tmp_path/'mine.toml') is None


# Class names

ODD = ['', ' ', 'caf\u00e9', 'cafe\u0301', '\N{CAT}', 'a\nb', '\x00', '\x1b[31m', 'a, "b"', '\ud800', '\u202ecat',
       'x'*10**6, 'cat ', 'cat', '<|endoftext|>', '{name}', '{}', '%s', '=1+1']


@examples(25, 300)
def test_class_names(examples, tmp_path):
    image = Image.new('RGB', (64, 64), 'red')
    some_names = st.lists(st.sampled_from(ODD) | st.text(max_size=12) | VALUES, max_size=4)

    @examples
    @given(some_names, st.sampled_from([list, tuple, iter]))
    def holds(names, kind):
        detector = outcome(lambda: OODDetector.from_names(kind(names), 'mini', cache=tmp_path/'cache'))
        if detector is not None:
            assert len(detector.names) == len(names) == len(set(detector.names))
            table = detector.predict(image)
            assert np.isfinite(table.score).all() and table.label[0] in detector.names
            check_lines(table)
    holds()


def check_lines(table):
    "A table keeps one record a line as JSON, and all its values as CSV."
    text = table.to_json(orient='records', lines=True)
    assert len(text.splitlines()) == len(table)
    assert [json.loads(line)['label'] for line in text.splitlines()] == table.label.tolist()
    again = pd.read_csv(StringIO(table.to_csv(index=False)), keep_default_na=False)
    assert again.label.astype(str).tolist() == table.label.tolist()


NOT_NAMES = [None, 'cat', b'cat', 3, [], [None], ['a', 'a '], ['caf\u00e9', 'cafe\u0301'], ['a\nb'], ['a\0'],
             ['x'*10**6], ['\ud800'], [['a']], {}, 3.5]


@pytest.mark.parametrize('names', NOT_NAMES, ids=lambda names: ascii(names)[:20])
def test_names_that_are_none(names):
    assert outcome(lambda: OODDetector.from_names(names, 'mini')) is None


@pytest.mark.slow
def test_ten_thousand_names(tmp_path):
    names = [f'thing number {i}' for i in range(10_000)]
    detector = OODDetector.from_names(iter(names), 'mini', cache=tmp_path)
    assert detector.names == tuple(names)
    assert np.isfinite(detector.score(Image.new('RGB', (64, 64)))).all()


# Files of stages, and rows

def changed(data, value):
    "The JSON value with one place in it lost, or replaced by anything."
    if isinstance(value, (dict, list)) and value and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        value = value.copy()
        if data.draw(st.integers(0, 3)): value[key] = changed(data, value[key])
        else: del value[key]
        return value
    return data.draw(VALUES)


def harmed(data, text):
    "Bytes with a run replaced."
    place = data.draw(st.integers(0, len(text)))
    return text[:place] + data.draw(st.binary(max_size=6)) + text[place + data.draw(st.integers(0, 20)):]


@pytest.fixture
def finished(tmp_path):
    "Files as stages leave them: (path, reader, lines or not)."
    images = ImageSet(tmp_path, ('cat/1.png', 'cow/2.png'), np.array([0, 1]), ('cat', 'cow'))
    write_sets({'train': images, 'id': images}, tmp_path)
    rows = [dict(path='cat/1.png', label=0, name='cat', complexity=1.5),
            dict(path='cow/2.png', label=1, name='cow', complexity=.5)]
    (tmp_path/'selection.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    for name in ('cat/1.png', 'cow/2.png'):
        (tmp_path/'made'/'00000'/'grad'/name).parent.mkdir(parents=True)
        Image.new('RGB', (4, 4)).save(tmp_path/'made'/'00000'/'grad'/name)
    write_records(tmp_path/'made'/'00000', rows)
    kept = Rows(tmp_path/'runs'/'smoke'/'rows', 'context')
    kept.make({}, lambda: [dict.fromkeys(ROW_COLUMNS, '') | dict(method='a', auroc=90.)])
    publish_rows(kept.folder, 'table', [kept.path({})])
    return [(tmp_path/'sets.json', lambda: read_sets(tmp_path)),
            (tmp_path/'selection.jsonl', lambda: read_selection(tmp_path)),
            (tmp_path/'made'/'00000'/'records.jsonl', lambda: read_synthetic(tmp_path/'made', 'grad')),
            (kept.folder/'table.json', lambda: merge_rows(tmp_path/'runs', 'smoke')),
            (kept.path({}), lambda: read_rows(kept.path({}), False))]


@examples(150, 4000)
def test_files_of_stages(examples, finished):
    whole = {path: path.read_bytes() for path, _ in finished}

    @examples
    @given(st.data(), st.sampled_from(range(len(finished))), st.booleans())
    def holds(data, which, bytewise):
        path, read = finished[which]
        if bytewise or path.suffix == '.csv': damaged = harmed(data, whole[path])
        elif path.suffix == '.jsonl':
            records = [changed(data, json.loads(line)) for line in whole[path].decode().splitlines()]
            damaged = ''.join(json.dumps(record) + '\n' for record in records).encode()
        else: damaged = json.dumps(changed(data, json.loads(whole[path]))).encode()
        path.write_bytes(damaged)
        try: outcome(read)
        finally: path.write_bytes(whole[path])
    holds()
    for _, read in finished: read()


# Saved detectors

@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "A calibrated detector, and one with a projection, as they stand on the disk."
    place = tmp_path_factory.mktemp('detectors')
    plain = replace(OODDetector.from_names(['circle', 'square'], 'mini'), threshold=.5, tpr=.9)
    plain.save(place/'plain')
    projection = Projection(plain.text.shape[1], True, torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    replace(plain, projection=projection, method='SynOOD').save(place/'projected')
    return place


def check_detector(folder):
    "It is refused in one line, or its scores are finite; True if it scores."
    detector = outcome(lambda: OODDetector.load(folder), folder)
    if detector is None: return False
    image = Image.new('RGB', (64, 64), 'blue')
    table = outcome(lambda: detector.predict(image))  # refused, if its network is another one
    if table is None: return False
    assert np.isfinite(table.score).all() and np.isfinite(table.confidence).all()
    check_lines(table)
    return True


@examples(120, 3000)
def test_detectors_with_other_settings(examples, saved, tmp_path):
    @examples
    @given(st.data(), st.sampled_from(['plain', 'projected']), st.booleans())
    def holds(data, which, anything):
        folder = tmp_path/which
        if not folder.exists(): shutil.copytree(saved/which, folder)
        meta = json.loads((saved/which/'detector.json').read_text())
        del meta['written']  # whoever forges the rest can leave it out
        if anything: meta = changed(data, meta)
        else: meta[data.draw(st.sampled_from(sorted(meta)))] = data.draw(VALUES)
        (folder/'detector.json').write_text(json.dumps(meta))
        check_detector(folder)
    holds()


@examples(40, 1500)
def test_detectors_with_damaged_bytes(examples, saved, tmp_path):
    files = st.sampled_from(['detector.json', 'detector.safetensors'])

    @examples
    @given(st.data(), st.sampled_from(['plain', 'projected']), files)
    def holds(data, which, file):
        folder = tmp_path/which
        if not folder.exists(): shutil.copytree(saved/which, folder)
        whole = (saved/which/file).read_bytes()
        head = whole[:400] if data.draw(st.booleans()) else whole  # where safetensors keeps names, types and places
        (folder/file).write_bytes(harmed(data, head) + whole[len(head):])
        try: check_detector(folder)
        finally: shutil.copy(saved/which/file, folder/file)
    holds()


ARRAYS = {'missing': lambda a: None,
          'half': lambda a: a.astype(np.float16),
          'whole': lambda a: a.astype(np.int64),
          'unsigned': lambda a: a.astype(np.uint8),
          'nan': lambda a: a*np.float32('nan'),
          'zero': lambda a: a*0,
          'empty': lambda a: a[:0],
          'narrow': lambda a: a[..., :-1],
          'flat': lambda a: a.ravel(),
          'deep': lambda a: a[None],
          'scalar': lambda a: a.ravel()[:1].reshape(()),
          'twice': lambda a: np.concatenate([a, a]),
          'large': lambda a: a*np.float32(1e38),
          'far': lambda a: (a + 10**9).astype(a.dtype),
          'minus': lambda a: (a - 10**9).astype(a.dtype)}


@pytest.mark.parametrize('harm', ARRAYS)
def test_detectors_with_other_arrays(harm, saved, tmp_path):
    whole = load_file(saved/'projected'/'detector.safetensors')
    whole['tuned'] = np.array([0, 1])
    shutil.copytree(saved/'projected', tmp_path/'made')
    for name, array in whole.items():
        with np.errstate(all='ignore'): other = ARRAYS[harm](array) if array.size else array
        arrays = {k: np.ascontiguousarray(v) for k, v in (whole | {name: other}).items() if v is not None}
        (tmp_path/'made'/'detector.safetensors').write_bytes(save(arrays))
        check_detector(tmp_path/'made')


TRICKS = dict(
    temperature=[0, -1, math.nan, math.inf, 1e-320, 1e308, True, '1', None, [1], 10**400],
    groups=[-1, 10**9, 1.5, True, None, '1'],
    threshold=[math.nan, math.inf, 'x', True, [], 10**400],
    tpr=[0, 1, -1, math.nan, 2, 'x'],
    clip=['/etc', '../..', [], [1], ['../x'], ['/etc'], ['~'], ['file:///etc'], [''], ['C:\\x'], ['embedded:../..'],
          ['random:../..'], ['embedded:/etc'], None, 3, 'own', 'own/../..'],
    names=[[], ['a', 'a'], [1, 2], 'ab', None, ['a\nb', 'c'], ['', 'c'], [['a'], 'b'], ['\ud800', 'b']],
    negative_names=[None, [1], [], 'x'],
    clip_hash=[None, '', 3],
    residual=[1, 'x', [], None],
    learner=[{}, 3, dict(name='x'), dict(name=3), dict(name='binary', hidden=-1), dict(name='binary', hidden=10**12),
             dict(name='binary', hidden='x'), dict(name='x'*10**5)],
    neighbours=[{}, [], 3, dict(prompts=['x'], words=['y']), dict(prompts=[], words=[])],
    format=[0, '4', None, 3, 6, [4]],
    method=[None, 3, ['x']])


@pytest.mark.parametrize('entry', TRICKS)
def test_detectors_with_tricks(entry, saved, tmp_path):
    shutil.copytree(saved/'projected', tmp_path/'made')
    meta = json.loads((saved/'projected'/'detector.json').read_text())
    del meta['written']
    for value in TRICKS[entry]:
        (tmp_path/'made'/'detector.json').write_text(json.dumps(meta | {entry: value}))
        scores = (entry, value) == ('residual', None)  # it leaves the projection out
        assert check_detector(tmp_path/'made') == scores, f'{entry} = {value!r:.60}'


NO_JSON = {'empty': '', 'list': '[]', 'null': 'null', 'open': '{', 'lists': '['*100_000, 'dicts': '{"a":'*100_000,
           'digits': '{"format": ' + '9'*5000 + '}', 'mark': '\ufeff{}'}


@pytest.mark.parametrize('kind', NO_JSON)
def test_the_command_refuses_in_one_line(kind, saved, tmp_path, capsys):
    shutil.copytree(saved/'plain', tmp_path/'made')
    (tmp_path/'made'/'detector.json').write_text(NO_JSON[kind])
    Image.new('RGB', (8, 8)).save(tmp_path/'a.png')
    with pytest.raises(SystemExit) as end: main(['score', str(tmp_path/'a.png'), '--detector', str(tmp_path/'made')])
    message = capsys.readouterr().err
    assert end.value.code == 2 and message.startswith('synood: ')
    assert str(tmp_path/'made') in message and len(message.splitlines()) == 1
