"""Reading, ranking and features on real photographs, and on what people do to photographs."""
import numpy as np
import pytest
from PIL import Image

from synood.models.classifier import classifier_features, load_classifier
from synood.models.clip import encode_images, image_features, load_clip
from synood.data.images import check_images, complexity, image_folder, read_image, most_complex

ODD = (37, 211)


@pytest.fixture
def variants(photos):
    "The photographs, and beside each one a grayscale, an odd-sized and a CMYK version."
    for path in sorted(photos.glob('*/*')):
        picture = read_image(path)
        picture.convert('L').save(path.with_name(f'{path.stem}_grey.png'))
        picture.resize(ODD).save(path.with_name(f'{path.stem}_odd.webp'))
        picture.convert('CMYK').save(path.with_name(f'{path.stem}_cmyk.JPEG'), quality=95)
    return image_folder(photos)


def of_kind(images, kind):
    return [path for path in images.paths if path.stem.endswith(kind)]


def test_every_variant_is_read_as_rgb(variants):
    broken, unusual = check_images(variants)
    assert broken == []
    assert [path for path, _ in unusual] == of_kind(variants, '_cmyk')
    assert len(variants) >= 8
    assert {variants.read(i).mode for i in range(len(variants))} == {'RGB'}
    assert {read_image(path).size for path in of_kind(variants, '_odd')} == {ODD}


def test_grayscale_has_three_equal_channels(variants):
    for path in of_kind(variants, '_grey'):
        pixels = np.asarray(read_image(path))
        assert (pixels == pixels[..., :1]).all()


def test_cmyk_keeps_its_colours(variants):
    assert len(of_kind(variants, '_cmyk')) >= 2
    for path in of_kind(variants, '_cmyk'):
        with Image.open(path) as stored:
            assert stored.mode == 'CMYK'
        original, = (p for p in path.parent.glob(f'{path.stem.removesuffix("_cmyk")}.*'))
        difference = np.abs(np.asarray(read_image(path), float) - np.asarray(read_image(original)))
        assert difference.mean() < 4


def test_ranking_takes_the_richest_of_every_class(variants):
    kept = most_complex(variants, 2)
    assert (np.bincount(kept.labels) == 2).all()
    for label in range(len(variants.classes)):
        every, chosen = (sorted(complexity(path) for path in s.take(s.labels == label).paths)
                         for s in (variants, kept))
        assert chosen == every[-2:]


def test_clip_features_of_every_variant(variants, tmp_path):
    clip = load_clip(('embedded:clip',))
    features = image_features(clip, variants, tmp_path/'cache')
    assert features.shape == (len(variants), clip.width) and np.isfinite(features).all()
    singles = [encode_images(clip, [variants.read(i)])[0] for i in range(len(variants))]
    np.testing.assert_allclose(features, singles, atol=1e-4)
    np.testing.assert_array_equal(image_features(clip, variants, tmp_path/'cache'), features)


def test_classifier_features_of_every_variant(variants, tmp_path):
    classifier = load_classifier(('embedded:classifier',))
    logits, penultimate = classifier_features(classifier, variants, tmp_path/'cache')
    assert logits.shape == (len(variants), len(classifier.bias)) and np.isfinite(logits).all()
    by_hand = penultimate @ classifier.weight.T + classifier.bias
    np.testing.assert_allclose(logits, by_hand, atol=1e-3)


def test_a_photograph_cut_short_is_named(variants):
    path = variants.path(0)
    path.write_bytes(path.read_bytes()[:path.stat().st_size//2])
    (broken, problem), = check_images(variants)[0]
    assert broken == path and 'truncated' in problem
    with pytest.raises(ValueError, match=path.name):
        image_features(load_clip(('embedded:clip',)), variants)
