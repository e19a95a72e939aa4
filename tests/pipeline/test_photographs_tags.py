"""Tags of real photographs: words of surroundings, none of them the subject's; the stage of contexts takes them."""
import os
from pathlib import Path

import pytest

from synood.core.scales import get_scale
from synood.core.stages import run_stage
from synood.data.images import image_folder
from synood.data.senses import all_senses
from synood.outliers.context import read_contexts
from synood.scores.tags import is_related, is_surrounding, load_tagger


@pytest.fixture
def subjects():
    "Eight photographs of ImageNet and what they show."
    if not os.environ.get('SYNOOD_PHOTOS'): pytest.skip('SYNOOD_PHOTOS names no folder of photographs')
    images = image_folder(Path(os.environ['SYNOOD_PHOTOS']), limit=8)
    names = [all_senses()[images.classes[label]].words[0] for label in images.labels]
    return [images.read(i) for i in range(len(images))], names


def test_photographs_get_words_of_surroundings(subjects):
    pictures, names = subjects
    answers = load_tagger()(pictures, names)
    assert sum(map(bool, answers)) >= len(answers)//2
    for answer, name in zip(answers, names):
        words = answer.split(' , ') if answer else []
        assert len(words) <= 4 and all(is_surrounding(word) and not is_related(word, name) for word in words)
    alone = [load_tagger()([picture], [name])[0] for picture, name in zip(pictures, names)]
    assert alone == answers


@pytest.mark.filterwarnings('ignore:.*answers name nothing')
def test_the_stage_asks_no_language_model(tmp_path):
    scale = get_scale('smoke').replace(context_model=('tags',), m=20)
    folder = run_stage('contexts', scale, (0,), tmp_path/'runs')[0]
    records = read_contexts(folder)
    assert len(records) == 20 and all(len(record['items']) <= 4 for record in records)
