"""Synthesis next to the published procedure written as a plain loop: images per second, memory, where the time goes.

    python tools/bench_synthesis.py                        scale mini, 12 rendered images, on this machine's GPU or CPU
    python tools/bench_synthesis.py --scale paper-random --photos FOLDER --images 16 --reference-images 4
    python tools/bench_synthesis.py growth                 seconds for m = 8 ... 64 images, and the exponent of m
    python tools/bench_synthesis.py growth --batch 32      the same for m = 32 ... 256
    python tools/bench_synthesis.py --scale mini --images 4 --rounds 1 --quick

Both sides run in processes of their own, take turns, and have loaded and warmed up everything before the clock starts.
The reference computes in float32, two images at a time, encodes prompts and the blank image anew in every iteration,
takes a gradient in every iteration and overwrites one file per image. It shares with ours the random streams of every
image, the loss of each image and the mode of the blank image's latent, so that both can make the same pictures;
`difference`, the largest one of a pixel, is measured in float32.
"""
import json
import platform
import resource
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from bench import clocked, in_turn, run, side_by_side
from synood.app.doctor import matmul_rate
from synood.core.processes import workers
from synood.core.scales import ScaleView, get_scale, rng
from synood.core.stages import Job, stages
from synood.data.images import image_folder, write_sets
from synood.evaluation.costs import count_flops
from synood.models.classifier import load_classifier
from synood.outliers import synthesis
from synood.outliers.context import context_prompt, write_contexts
from synood.outliers.inpainting import (decode, encode_latents, encode_prompts, load_inpainting, make_scheduler,
                                        stream_noise, to_image, to_pixels)
from synood.outliers.losses import boundary_losses, classifier_logits
from synood.outliers.synthesis import inpainting_model, read_synthetic, synthesis_stage

EXACT = {'synthesis.unet_precision': 'fp32', 'synthesis.vae_precision': 'fp32', 'synthesis.compiled': False}
TOGETHER = 2  # images at a time in the authors' script


# ---- what to paint --------------------------------------------------------------------------------

def rendered(folder, count):
    "Scenes of the miniature's development world, one folder per class, and the prompt of each."
    from synood.data.miniature import context_names, render, world
    dev = world('dev')
    prompts = {}
    recipes = [dev.sample('id', rng(0, 'bench', i)) for i in range(count)]
    for i, recipe in enumerate(recipes):
        path = folder/recipe.subject/f'{i:04d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render(recipe, rng(0, 'bench', i, 'pixels'))).save(path)
        prompts[f'{recipe.subject}/{i:04d}.png'] = context_names(recipe)
    return prompts


def prepare(folder, scale, photos, count):
    "The finished inputs of the stage `synthesis` for `count` images: {stage: folder}."
    root = Path(photos) if photos else folder/'scenes'
    listed = {} if photos else rendered(root, count)
    images = image_folder(root, limit=count)
    if len(images) < count: sys.exit(f'{root} holds {len(images)} images: ask for no more')
    inputs = {name: folder/name for name in ('images', 'selection', 'contexts')}
    for path in (inputs['images'], inputs['selection'], inputs['contexts']/'00000'): path.mkdir(parents=True)
    write_sets({'train': images}, inputs['images'])
    rows = [dict(path=name, label=int(label), name=images.classes[label])
            for name, label in zip(images.files, images.labels)]
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (inputs['selection']/'selection.jsonl').write_text(text, encoding='utf-8')
    contexts = []
    for row in rows:
        objects = tuple(listed.get(row['path'], ('street', 'tree')))
        prompt = context_prompt(objects, scale.context.prompt, scale.context.max_chars)
        contexts.append(dict(path=row['path'], name=row['name'], question='', answer='', items=(), prompt=prompt))
    write_contexts(inputs['contexts']/'00000', contexts)
    return inputs


# ---- the two sides ----------------------------------------------------------------------------------

def reference(painter, classifier, images, prompts, scale, folder):
    "The published procedure, see above; writes NAME.png into the folder."
    settings = scale.synthesis
    for start in range(0, len(images), TOGETHER):
        names = images.files[start:start + TOGETHER]
        pixels = torch.stack([to_pixels(images.read(n), settings.resolution) for n in names])  # (B, 3, H, W)
        z_in = encode_latents(painter, pixels, names, 0)  # (B, 4, H/8, W/8)
        eps = stream_noise(z_in, names, 0, 'eps')
        for _ in range(settings.iterations):
            with torch.no_grad():
                text = encode_prompts(painter, [''] * len(names) + [prompts[n] for n in names])
                blank_pixels = torch.zeros_like(pixels).to(painter.device)
                blank = painter.vae.encode(blank_pixels).latent_dist.mode()*painter.factor  # (B, 4, H/8, W/8)
                scheduler, timesteps = make_scheduler(painter, settings.sampler, settings.steps, settings.strength)
                z = scheduler.add_noise(z_in, eps, timesteps[:1])
                mask = torch.ones(2*len(z), 1, *z.shape[2:], device=z.device)  # everything is painted anew
                for t in timesteps:
                    noisy = scheduler.scale_model_input(torch.cat([z, z]), t)
                    x = torch.cat([noisy, mask, torch.cat([blank, blank])], 1)  # (2B, 9, H/8, W/8)
                    plain, prompted = painter.unet(x, t, text).sample.chunk(2)
                    guided = plain + settings.guidance_scale*(prompted - plain)
                    z = scheduler.step(guided, t, z).prev_sample
            leaf = (z/painter.factor).requires_grad_()
            shown = decode(painter, leaf)
            loss = boundary_losses[settings.objective](classifier_logits(classifier, shown), settings.target,
                                                       None).sum()
            eps = eps - settings.step_size/settings.release_batch*torch.autograd.grad(loss, leaf)[0]
            for name, picture in zip(names, shown.detach()):
                path = folder/f'{name}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                to_image(picture).save(path)


def plain_painter(ids):
    "The painter in float32 and in torch's usual order of channels."
    painter = load_inpainting(ids)
    for network in (painter.vae, painter.unet): network.to(memory_format=torch.contiguous_format)
    return painter


def ours(scale, inputs, folder, count):
    "The stage itself, on the first `count` images; returns the folder with its batches."
    uses = stages['synthesis'].uses
    job = Job('synthesis', ScaleView(scale, uses), 0, folder/'part', folder/'final', inputs, folder/'cache')
    job.folder.mkdir(parents=True)
    read_all = synthesis.read_selection
    with patch.object(synthesis, 'read_selection', lambda path: read_all(path)[:count]): synthesis_stage(job)
    return job.folder


class Side:
    "One side in a process of its own: what it has loaded stays."
    def __init__(self, kind, scale, inputs, count):
        self.kind, self.scale, self.inputs = kind, scale, inputs
        self.images = synthesis.read_sets(inputs['images'])['train'].take(range(count))
        self.prompts = {c['path']: c['prompt'] for c in synthesis.read_contexts(inputs['contexts'])}
        self.classifier = load_classifier(scale.classifier)
        self.painter = plain_painter(scale.inpainting) if kind == 'reference' else inpainting_model(scale)

    def run(self, folder):
        if self.kind == 'reference':
            reference(self.painter, self.classifier, self.images, self.prompts, self.scale, folder)
            return [folder/f'{name}.png' for name in self.images.files]
        pictures, _ = read_synthetic(ours(self.scale, self.inputs, folder, len(self.images)), 'grad')
        return pictures.paths

    def timed(self):
        "Seconds of one run, for each image."
        with tempfile.TemporaryDirectory() as d: return clocked(partial(self.run, Path(d)))[0]/len(self.images)

    def examined(self):
        "Share of each part of a run, and its pictures."
        with tempfile.TemporaryDirectory() as d, parts_clocked(self) as spent:
            spent['all'], paths = clocked(partial(self.run, Path(d)))
            return dict(spent), [np.asarray(Image.open(p), int) for p in paths]

    def memory(self):
        if torch.cuda.is_available(): return torch.cuda.max_memory_allocated()/1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1e6 if platform.system() == 'Darwin' else 1e3)


@contextmanager
def parts_clocked(side):
    """Yield a counter that fills with the seconds of each part.

    The GPU is waited for at every call, so the sum runs a little slower."""
    spent = Counter()
    painter = side.painter
    places = [(painter.unet, 'forward', 'UNet'), (painter.vae, 'encode', 'VAE'), (painter.vae, 'decode', 'VAE'),
              (painter.text_encoder, 'forward', 'text'), (side.classifier.model, 'forward', 'classifier'),
              (torch.autograd, 'grad', 'gradient of VAE and classifier'), (Image.Image, 'save', 'files')]

    def around(function, part):
        def timed(*args, **kwargs):
            seconds, result = clocked(partial(function, *args, **kwargs))
            spent[part] += seconds
            return result
        return timed
    with ExitStack() as stack:
        for owner, name, part in places:
            stack.enter_context(patch.object(owner, name, around(getattr(owner, name), part)))
        yield spent


# ---- ceilings -----------------------------------------------------------------------------------------

def ceiling(painter):
    "Operations per second of the fastest square matrix product, in the UNet's type."
    sizes = (2048, 4096, 8192, 16384) if painter.device.type == 'cuda' else (512, 1024, 2048)
    return max(matmul_rate(painter.unet.dtype, n, 10) for n in sizes)


def unet_flops(painter, scale):
    "Operations of one UNet evaluation of one latent."
    side = synthesis.blank_latent(painter, scale.synthesis.resolution).shape[2:]
    x = torch.zeros(1, 9, *side, device=painter.device, dtype=painter.unet.dtype)
    return count_flops(painter.unet, x, 1, synthesis.blank_text(painter).to(painter.unet.dtype))


# ---- processes ------------------------------------------------------------------------------------------

SIDE = None  # of this process


def start(*details):
    global SIDE
    SIDE = Side(*details)
    if SIDE.kind == 'ours' and not SIDE.scale.synthesis.batch_size:
        SIDE.scale = SIDE.scale.replace(synthesis=dict(batch_size=tried_batch(SIDE)))
    all_images = SIDE.images
    SIDE.images = all_images.take(range(min(len(all_images), SIDE.scale.synthesis.batch_size or TOGETHER)))
    SIDE.timed()  # warms up, with one batch
    SIDE.images = all_images


def tried_batch(side):
    "What the stage would find by trial, found before the clock starts."
    job = SimpleNamespace(scale=side.scale, decide_once=lambda name, find: find(), on_worker=lambda find: find())

    def gradient_step(painter, z):
        return synthesis.boundary_gradient(painter, side.classifier, z, side.scale, 0., True)
    size = synthesis.batch_size(job, lambda scale: side.painter, gradient_step)
    if torch.cuda.is_available(): torch.cuda.reset_peak_memory_stats()
    return size


def ask(what): return getattr(SIDE, what)()


def batch_of(): return TOGETHER if SIDE.kind == 'reference' else SIDE.scale.synthesis.batch_size


def efficiency(spent, count):
    "Of the UNet in a run of `count` images: operations per second, the ceiling, and their ratio."
    painter, scale = SIDE.painter, SIDE.scale
    _, timesteps = make_scheduler(painter, scale.synthesis.sampler, scale.synthesis.steps, scale.synthesis.strength)
    calls = 2*len(timesteps)*scale.synthesis.iterations*count  # 2: with the prompt and without
    rate = unet_flops(painter, scale)*calls/spent['UNet']
    most = ceiling(painter)
    return dict(unet_tflops=rate/1e12, ceiling_tflops=most/1e12, unet_share=rate/most)


def alone(): return workers(1)


def asked(pool, what): return pool.submit(ask, what).result()


def compare(args, scale, folder):
    "Both sides in turn, in processes of their own: the tables."
    inputs = prepare(folder, scale, args.photos, args.images)
    counts = {'reference': min(args.reference_images or args.images, args.images), 'ours': args.images}
    with alone() as theirs, alone() as mine:
        pools = {'reference': theirs, 'ours': mine}
        for kind, pool in pools.items(): pool.submit(start, kind, scale, inputs, counts[kind]).result()
        seconds = in_turn({kind: partial(asked, pool, 'timed') for kind, pool in pools.items()}, args.rounds)
        sides, spent, pictures = {}, {}, {}
        for kind, pool in pools.items():
            spent[kind], pictures[kind] = asked(pool, 'examined')
            sides[kind] = dict(images=counts[kind], batch=pool.submit(batch_of).result(),
                               memory_mb=asked(pool, 'memory'),
                               **pool.submit(efficiency, spent[kind], counts[kind]).result())
    if scale.replace(**EXACT) != scale:
        with alone() as exact:
            exact.submit(start, 'ours', scale.replace(**EXACT), inputs, counts['reference']).result()
            pictures['ours'] = asked(exact, 'examined')[1]
    difference = max(int(np.abs(a - b).max()) for a, b in zip(pictures['reference'], pictures['ours']))
    return {'seconds an image': {'synthesis': dict(**side_by_side(**seconds), difference=difference)},
            'sides': sides, 'share of the time': shares(spent)}


def shares(spent):
    "{part: its share of each side's run}."
    parts = sorted({*spent['reference'], *spent['ours']} - {'all'})
    return {part: {kind: seconds.get(part, 0)/seconds['all'] for kind, seconds in spent.items()} for part in parts}


def growth(args, scale, folder):
    "Seconds of the stage for growing m, full batches, set-up excluded: the tables."
    sizes = [scale.synthesis.batch_size*2**k for k in range(4)]
    inputs = prepare(folder, scale, args.photos, sizes[-1])
    sides = {m: Side('ours', scale, inputs, m) for m in sizes}
    sides[sizes[0]].timed()  # warms up
    turns = in_turn({m: side.timed for m, side in sides.items()}, args.rounds)
    seconds = {m: m*min(taken) for m, taken in turns.items()}
    exponent, _ = np.polyfit(np.log(sizes), np.log([*seconds.values()]), 1)
    return {'growth': {f'm = {m}': dict(seconds=taken, images_per_second=m/taken) for m, taken in seconds.items()},
            'fit': {'seconds': dict(exponent=float(exponent))}}


def options(parser):
    parser.add_argument('what', nargs='?', choices=['compare', 'growth'], default='compare')
    parser.add_argument('--scale', default='mini')
    parser.add_argument('--photos', help='a folder with one folder of photographs per class; default: rendered scenes')
    parser.add_argument('--images', type=int, default=12)
    parser.add_argument('--reference-images', type=int, default=0, help='fewer for the slow side')
    parser.add_argument('--batch', type=int, default=0, help='default: the scale\'s; of growth: 8')
    parser.add_argument('--rounds', type=int, help='default: 3; of growth: 1')
    parser.add_argument('--quick', action='store_true', help='two steps, two iterations: to try it out')


def measure(args):
    scale = get_scale(args.scale)
    if scale.synthesis.objective == 'energy_hinge' and scale.synthesis.margin is None:
        sys.exit('energy_hinge needs a margin in the scale here')
    if args.what == 'growth': args.batch = args.batch or 8
    args.rounds = args.rounds or {'compare': 3, 'growth': 1}[args.what]
    if args.batch: scale = scale.replace(synthesis=dict(batch_size=args.batch))
    if args.quick: scale = scale.replace(synthesis=dict(steps=2, strength=1., iterations=2))
    with tempfile.TemporaryDirectory() as folder:
        tables = {'compare': compare, 'growth': growth}[args.what](args, scale, Path(folder))
    fields = ('resolution', 'strength', 'steps', 'iterations', 'batch_size', 'unet_precision', 'vae_precision',
              'compiled')
    settings = dict(scale=scale.name, photos=bool(args.photos), rounds=args.rounds)
    return settings | {name: getattr(scale.synthesis, name) for name in fields}, tables


def main(arguments=None): run(__doc__, options, measure, arguments)


if __name__ == '__main__': main()
