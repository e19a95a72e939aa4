"""The shipped WordNet lists: complete, within their size, and what a WordNet dictionary gives."""
import gzip

import pytest

from synood.data.words import SENSES, WORDNET, build_wordnet, find_dictionary, head_words, word_pool, read_words

COUNTS = {  # head words per lexicographer file of WordNet 3.0
    'adj.all': 10994, 'adj.pert': 3394, 'adj.ppl': 60, 'noun.Tops': 50, 'noun.act': 5890,
    'noun.artifact': 10329, 'noun.attribute': 2728, 'noun.body': 1979, 'noun.cognition': 2766,
    'noun.communication': 5100, 'noun.event': 996, 'noun.feeling': 411, 'noun.group': 2407,
    'noun.location': 2946, 'noun.motive': 41, 'noun.object': 1500, 'noun.person': 9627,
    'noun.phenomenon': 628, 'noun.plant': 7630, 'noun.possession': 997, 'noun.process': 719,
    'noun.quantity': 1195, 'noun.relation': 411, 'noun.shape': 328, 'noun.state': 3410,
    'noun.substance': 2923, 'noun.time': 930,
}


def shipped():
    "{lexicographer file: its words}."
    names = sorted(path.name for path in WORDNET.iterdir() if path.name.endswith('.txt.gz'))
    return {name.removesuffix('.txt.gz'): [word for word, _ in read_words(WORDNET, [name])]
            for name in names}


def test_every_list_is_complete():
    assert {name: len(words) for name, words in shipped().items()} == COUNTS


def test_words_are_sorted_distinct_and_ready_for_a_prompt():
    for words in shipped().values():
        assert words == sorted(set(words))
        assert not any('_' in word or word != word.lower() or word != word.strip() for word in words)


def test_the_pool_has_every_word_once():
    words = word_pool('wordnet').words
    assert set(words) == {word for names in shipped().values() for word in names}
    assert len(words) == len(set(words))


def test_the_lists_are_small_carry_no_date_and_come_with_their_licence():
    files = [path for path in WORDNET.iterdir() if path.name.endswith('.gz')]
    assert sum(path.stat().st_size for path in files if path.name != SENSES) < 1_000_000
    assert (WORDNET/SENSES).stat().st_size < 4_000_000
    assert all(path.read_bytes()[4:8] == bytes(4) for path in files)  # gzip's time stamp
    assert 'Princeton University' in (WORDNET/'LICENSE').read_text(encoding='utf-8')


def test_a_dictionary_reproduces_the_lists(tmp_path):
    dictionary = find_dictionary()
    if dictionary is None:
        pytest.skip('this computer has no WordNet: set WNSEARCHDIR to a WordNet 3.0 folder')
    assert head_words(dictionary) == shipped()
    build_wordnet(dictionary, tmp_path)
    for path in tmp_path.iterdir():
        assert gzip.decompress(path.read_bytes()) == gzip.decompress((WORDNET/path.name).read_bytes())
