"""Lists that a user brings or that another machine wrote: every damage is one line that says where."""
import json

import numpy as np
import pytest
from PIL import Image

from synood.data.captions import CAPTIONS_FILE, read_caption_list
from synood.data.datasets import _names_of, folder_class_names, read_class_list, read_list
from synood.data.images import ImageSet, read_user_text, read_sets, read_jsonl, write_sets

GOOD = b'a.png\ta cat\n'


@pytest.mark.parametrize('content, message', [
    (GOOD + b'a.png a cat', 'captions.tsv:2: 0 tabs'), (GOOD + b'a.png\ta\tcat', 'captions.tsv:2: 2 tabs'),
    (GOOD + b'\n' + GOOD, 'captions.tsv:2: 0 tabs'), (GOOD + b'a.png\t ', 'captions.tsv:2: no caption'),
    (GOOD + b'../a.png\tx', "captions.tsv:2: '../a.png' leads out"),
    (GOOD + b'/a.png\tx', "captions.tsv:2: '/a.png' leads out"), (GOOD + b'\tx', "captions.tsv:2: '' leads out"),
    (GOOD + b'a.png\t\xff', 'captions.tsv:2: not UTF-8'), (b'', 'captions.tsv: the file is empty')])
def test_a_list_of_captions_that_is_wrong(tmp_path, content, message):
    (tmp_path/CAPTIONS_FILE).write_bytes(content)
    with pytest.raises(ValueError) as error: read_caption_list(tmp_path/CAPTIONS_FILE)
    assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('folder', ['n02123045.tar', 'n02123045(1)', 'tabby_n02123045', 'n02123045 n02123159'])
def test_a_wordnet_id_inside_a_name_is_no_word(folder):
    with pytest.raises(ValueError, match='holds a WordNet id, which is no word: give a list'): _names_of(folder)


@pytest.mark.parametrize('content, message', [
    (b'owl\n', "line 1: 'owl' is not a folder, a tab"), (b'a\tb\na\tc\n', "line 2: the folder 'a' comes twice"),
    (b'a\t\xff', 'names.txt: not a text in UTF-8')])
def test_a_list_of_class_names_that_is_wrong(tmp_path, content, message):
    (tmp_path/'names.txt').write_bytes(content)
    with pytest.raises(ValueError, match=message): read_class_list(tmp_path/'names.txt')


def test_a_list_of_class_names_from_windows_for_folders_from_a_mac(tmp_path):
    (tmp_path/'names.txt').write_text('\ufeffcaf\u00e9\tcoffee\r\n\r\n', encoding='utf-8', newline='')
    assert folder_class_names(['cafe\u0301'], tmp_path/'names.txt') == ('coffee',)


@pytest.mark.parametrize('content, message', [
    (b'\xff 1\n', 'bad.txt: not a text in UTF-8'), (b'a.jpg 1\nb.jpg\n', "bad.txt, line 2: 'b.jpg' is not a path"),
    (b'a.jpg one\n', "bad.txt, line 1: 'a.jpg one' is not a path, a space and a label")])
def test_a_list_of_labels_that_is_wrong(tmp_path, content, message):
    (tmp_path/'bad.txt').write_bytes(content)
    with pytest.raises(ValueError, match=message): read_list(tmp_path/'bad.txt')


@pytest.fixture
def stage(tmp_path):
    "A folder as the stage `images` leaves it."
    Image.new('RGB', (2, 2)).save(tmp_path/'a.png')
    write_sets({'id': ImageSet(tmp_path, ('a.png',), np.array([0]), ('cat',))}, tmp_path)
    return tmp_path


@pytest.mark.parametrize('name', ['../secret.png', '/etc/passwd', 'x/../../secret.png'])
def test_a_name_in_a_set_that_leads_out(stage, name):
    sets = json.loads((stage/'sets.json').read_text())
    sets['id']['files'][0] = name
    (stage/'sets.json').write_text(json.dumps(sets))
    with pytest.raises(ValueError) as error: read_sets(stage)
    assert f'sets.json names the file {name!r}, which lies outside its folder' in str(error.value)


@pytest.mark.parametrize('content', ['{"id": {"root": "a"}}', '[]', '{"id": {"root": "a", "fi'])
def test_damaged_sets(stage, content):
    (stage/'sets.json').write_text(content)
    with pytest.raises(ValueError, match=r'sets.json is damaged \('): read_sets(stage)


@pytest.mark.parametrize('changed', [dict(labels=['0']), dict(labels=[1]), dict(labels=[True]), dict(orient=1),
                                     dict(root='a\0b'), dict(files='a.png'), dict(classes=[1])])
def test_a_value_of_the_wrong_type_in_a_set(stage, changed):
    sets = json.loads((stage/'sets.json').read_text())
    sets['id'] |= changed
    (stage/'sets.json').write_text(json.dumps(sets))
    with pytest.raises(ValueError, match='sets.json is damaged'): read_sets(stage)


@pytest.mark.parametrize('content, message', [
    ('{"path": "../1.jpg"}', "names the file '../1.jpg'"), ('{"label": 1}', "is damaged (KeyError: 'path')"),
    ('[', 'is damaged (JSONDecodeError')])
def test_damaged_lines(tmp_path, content, message):
    (tmp_path/'lines.jsonl').write_text(content)
    with pytest.raises(ValueError) as error: read_jsonl(tmp_path/'lines.jsonl')
    assert f'lines.jsonl {message}' in str(error.value)


def test_a_text_in_another_encoding(tmp_path):
    (tmp_path/'own.txt').write_bytes(b'K\xfcken')
    with pytest.raises(ValueError,
                       match='own.txt: not a text in UTF-8: save it as UTF-8'): read_user_text(tmp_path/'own.txt')
