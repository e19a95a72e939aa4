"""The whole road on real photographs: any image folders work, with embedded networks that know none of them."""
import numpy as np
import pytest

from synood.evaluation.benchmark import experiment
from synood.detector import OODDetector
from synood.outliers.finetuning import SynOOD
from synood.data.images import image_folder, read_image
from synood.core.stages import run_stage
from synood.core.scales import get_scale
from synood.scores.method import NegLabel
from synood.outliers.synthesis import read_synthetic

TOML = """base = "smoke"
world = "photographs"
data = "{data}"
m = 2
n_train = 0
n_test = 0
[synthesis]
iterations = 1
steps = 4
batch_size = 2
"""


@pytest.fixture
def scale(photos, tmp_path):
    "A protocol's folders made of photographs: two classes, each with a grayscale, a CMYK and an odd-sized picture."
    files = sorted(p for p in photos.glob('*/*'))
    data = tmp_path/'data'
    for role in ('train', 'id'):
        for name, file in zip(('temple', 'flower'), files[:2]):
            folder = data/role/name
            folder.mkdir(parents=True)
            picture = read_image(file)
            picture.save(folder/'plain.jpg')
            picture.convert('L').save(folder/'grey.png')
            picture.convert('CMYK').save(folder/'cmyk.jpg')
            picture.resize((301, 97)).save(folder/'odd.png')
    for role in ('near', 'iNaturalist', 'SUN', 'Places', 'Textures'):
        (data/role).mkdir()
        for i, file in enumerate(files): read_image(file).rotate(90).resize((80 + i, 64)).save(data/role/f'{i}.png')
    (tmp_path/'photographs.toml').write_text(TOML.format(data=data))
    return tmp_path/'photographs.toml'


def test_the_whole_road_runs_on_photographs(scale, tmp_path):
    with pytest.warns(UserWarning, match='know the miniature and no photographs'):
        pictures, records = read_synthetic(run_stage('synthesis', scale, (0,), tmp_path/'runs')[0], 'grad')
    assert [r['name'] for r in records] == ['flower', 'temple']
    assert all(pictures.read(i).size == (64, 64) for i in range(2))
    rows = experiment('photographs', [NegLabel(), SynOOD()], get_scale(scale), (0,), tmp_path/'runs')
    assert len(rows) == 10 and np.isfinite(rows.auroc).all() and (rows.n_id == 8).all()


def test_a_detector_scores_photographs(photos):
    paths = image_folder(photos).paths
    detector = OODDetector.from_names(['temple', 'flower', 'dog'], 'mini')
    table = detector.predict(paths)
    assert len(table) == len(paths) and table.score.between(0, 1).all()
    assert set(table.label) <= {'temple', 'flower', 'dog'}
