"""The embedded lister on real photographs: it knows none, but every one must give a record."""
import pytest
from PIL import Image

from synood.outliers.context import describe_context, load_context_model
from synood.data.images import read_image
from synood.core.scales import get_scale

pytestmark = pytest.mark.filterwarnings('ignore:.*answers name nothing')


@pytest.fixture
def odd_photos(photos):
    "The photographs, with a grayscale, a CMYK and a narrow version of the first one beside it."
    first = min(path for path in photos.glob('*/*') if path.is_file())
    with Image.open(first) as picture:
        picture.convert('L').save(first.with_name('grayscale.jpg'))
        picture.convert('CMYK').save(first.with_name('cmyk.jpg'))
        picture.convert('RGB').resize((301, 37)).save(first.with_name('narrow.png'))
    return photos


def test_every_photograph_gets_a_prompt_that_does_not_depend_on_its_batch(odd_photos):
    scale = get_scale('smoke')
    lister = load_context_model(scale.context_model)
    rows = [{'path': path.relative_to(odd_photos).as_posix(), 'name': path.parent.name}
            for path in sorted(odd_photos.glob('*/*'))]
    images = [read_image(odd_photos/row['path']) for row in rows]
    records = describe_context(rows, images, lister, scale)
    assert [record['path'] for record in records] == [row['path'] for row in rows]
    for row, record in zip(rows, records):
        assert record['prompt'].startswith('A photo only remain ') and record['prompt'].endswith('.')
        assert len(record['prompt']) <= len('A photo only remain .') + scale.context.max_chars
        assert row['name'] in record['question'] and row['name'] not in record['items']
    alone = [describe_context([row], [image], lister, scale)[0] for row, image in zip(rows, images)]
    if lister.model.device.type == 'cpu':
        assert alone == records
