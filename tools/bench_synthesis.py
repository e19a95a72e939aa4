"""Synthesis next to the published procedure written as a plain loop: images per second, memory, where the time goes.

    python tools/bench_synthesis.py                        scale mini, 25 rendered images, on this machine's GPU or CPU
    python tools/bench_synthesis.py --scale paper-random --photos FOLDER --images 16 --reference-images 4
    python tools/bench_synthesis.py linear                 seconds for m = 32 ... 512 images, and the exponent of m
    python tools/bench_synthesis.py --scale mini --images 4 --rounds 1 --quick

Both sides run in processes of their own, take turns, and have loaded and warmed up everything before the clock starts.
The reference computes in float32, two images at a time, encodes prompts and the blank image anew in every iteration,
takes a gradient in every iteration and overwrites one file per image. It shares with ours the random streams of every
image, the loss of each image and the mode of the blank image's latent, so that both can make the same pictures;
`difference` is measured in float32. With `--out figures.json` all figures are written to a file.
"""
import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from synood.outliers import synthesis
from synood.outliers.context import context_prompt, write_contexts
from synood.evaluation.costs import count_flops
from synood.app.doctor import matmul_rate
from synood.models.classifier import load_classifier
from synood.data.images import image_folder, write_sets
from synood.core.processes import workers
from synood.core.stages import Job, stages, versions
from synood.core.scales import ScaleView, get_scale, rng
from synood.outliers.inpainting import (decode, encode_latents, encode_prompts, load_inpainting, stream_noise,
                                        make_scheduler, to_image,
                                        to_pixels)
from synood.outliers.losses import classifier_logits, boundary_losses
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
        "Seconds of one run."
        with tempfile.TemporaryDirectory() as d: return self.stopwatch(Path(d))[0]

    def stopwatch(self, folder):
        settle()
        started = time.perf_counter()
        paths = self.run(folder)
        settle()
        return time.perf_counter() - started, paths

    def examined(self):
        "Share of each part of a run, and its pictures."
        with tempfile.TemporaryDirectory() as d, clocked(self) as spent:
            spent['all'], paths = self.stopwatch(Path(d))
            return dict(spent), [np.asarray(Image.open(p), int) for p in paths]

    def memory(self):
        if torch.cuda.is_available(): return torch.cuda.max_memory_allocated()/1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1e6 if platform.system() == 'Darwin' else 1e3)


def settle():
    if torch.cuda.is_available(): torch.cuda.synchronize()


@contextmanager
def clocked(side):
    """Yield a counter that fills with the seconds of each part.

    The GPU is waited for at every call, so the sum runs a little slower."""
    spent = Counter()
    painter = side.painter
    places = [(painter.unet, 'forward', 'UNet'), (painter.vae, 'encode', 'VAE'), (painter.vae, 'decode', 'VAE'),
              (painter.text_encoder, 'forward', 'text'), (side.classifier.model, 'forward', 'classifier'),
              (torch.autograd, 'grad', 'gradient of VAE and classifier'), (Image.Image, 'save', 'files')]

    def around(function, part):
        def timed(*args, **kwargs):
            settle()
            started = time.perf_counter()
            result = function(*args, **kwargs)
            settle()
            spent[part] += time.perf_counter() - started
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
    job = SimpleNamespace(scale=side.scale, decide_once=lambda name, find: find())

    def gradient_step(z): return synthesis.boundary_gradient(side.painter, side.classifier, z, side.scale, 0., True)
    size = synthesis.batch_size(job, side.painter, gradient_step)
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
    return dict(tflops=rate/1e12, ceiling_tflops=most/1e12, share=rate/most)


def alone(): return workers(1)


def compare(args, scale, folder):
    "Both sides in turn, in processes of their own: all figures of a run."
    inputs = prepare(folder, scale, args.photos, args.images)
    counts = {'reference': min(args.reference_images or args.images, args.images), 'ours': args.images}
    with alone() as theirs, alone() as mine:
        pools = {'reference': theirs, 'ours': mine}
        for kind, pool in pools.items(): pool.submit(start, kind, scale, inputs, counts[kind]).result()
        seconds = {kind: [] for kind in pools}
        for _ in range(args.rounds):
            for kind, pool in pools.items(): seconds[kind].append(pool.submit(ask, 'timed').result())
        sides, pictures = {}, {}
        for kind, pool in pools.items():
            spent, pictures[kind] = pool.submit(ask, 'examined').result()
            sides[kind] = dict(
                images=counts[kind], batch=pool.submit(batch_of).result(), seconds=seconds[kind],
                images_per_second=counts[kind]/median(seconds[kind]), memory_mb=pool.submit(ask, 'memory').result(),
                shares={part: s/spent['all'] for part, s in spent.items() if part != 'all'},
                unet=pool.submit(efficiency, spent, counts[kind]).result())
    if scale.replace(**EXACT) != scale:
        with alone() as exact:
            exact.submit(start, 'ours', scale.replace(**EXACT), inputs, counts['reference']).result()
            pictures['ours'] = exact.submit(ask, 'examined').result()[1]
    difference = max(int(np.abs(a - b).max()) for a, b in zip(pictures['reference'], pictures['ours']))
    ratio = sides['ours']['images_per_second']/sides['reference']['images_per_second']
    return dict(**about(args, scale), **sides, ratio=ratio, difference=difference)


def linear(args, scale, folder):
    "Seconds of the stage for growing m, full batches, set-up excluded."
    scale = scale.replace(synthesis=dict(batch_size=args.batch or 32))
    sizes = [scale.synthesis.batch_size*2**k for k in range(5)]
    inputs = prepare(folder, scale, args.photos, sizes[-1])
    sides = [Side('ours', scale, inputs, m) for m in sizes]
    sides[0].timed()  # warms up
    seconds = [min(side.timed() for _ in range(args.rounds)) for side in sides]
    exponent, _ = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return dict(**about(args, scale), m=sizes, seconds=seconds, exponent=float(exponent))


def about(args, scale):
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} threads'
    fields = ('resolution', 'strength', 'steps', 'iterations', 'batch_size',
              'unet_precision', 'vae_precision', 'compiled')
    settings = {name: getattr(scale.synthesis, name) for name in fields}
    return dict(command=' '.join(['python', 'tools/bench_synthesis.py', *args.line]),
                device=device, packages=versions(), scale=scale.name, settings=settings)


def show(figures):
    settings = ', '.join(f'{name} {value}' for name, value in figures['settings'].items())
    print(f"{figures['scale']}, {figures['device']}; {settings}")
    if 'exponent' in figures:
        for m, s in zip(figures['m'], figures['seconds']): print(f'm = {m:4}: {s:8.2f} s, {m/s:6.2f} images a second')
        return print(f"seconds grow with m to the power {figures['exponent']:.3f}")
    a, b = figures['reference'], figures['ours']

    def line(name, x, y, form): print(f'{name:34}{form.format(x):>14}{form.format(y):>14}')
    line('', 'reference', 'ours', '{}')
    line('images', a['images'], b['images'], '{}')
    line('images at a time', a['batch'], b['batch'], '{}')
    line('images per second', a['images_per_second'], b['images_per_second'], '{:.3f}')
    line('peak memory, MB', a['memory_mb'], b['memory_mb'], '{:.0f}')
    for part in sorted({*a['shares'], *b['shares']}):
        line(f'share of {part}', a['shares'].get(part, 0), b['shares'].get(part, 0), '{:.1%}')
    line('UNet, 10^12 operations a second', a['unet']['tflops'], b['unet']['tflops'], '{:.3f}')
    line('of the matrix product\'s', a['unet']['share'], b['unet']['share'], '{:.1%}')
    print(f"ratio {figures['ratio']:.2f}, largest difference of a pixel in float32 {figures['difference']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', nargs='?', choices=['compare', 'linear'], default='compare')
    parser.add_argument('--scale', default='mini')
    parser.add_argument('--photos', help='a folder with one folder of photographs per class; default: rendered scenes')
    parser.add_argument('--images', type=int, default=25)
    parser.add_argument('--reference-images', type=int, default=0, help='fewer for the slow side')
    parser.add_argument('--batch', type=int, default=0, help='default: the scale\'s')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--quick', action='store_true', help='two steps, two iterations: to try it out')
    parser.add_argument('--out', type=Path, help='write all figures here as JSON')
    args = parser.parse_args()
    args.line = sys.argv[1:]
    scale = get_scale(args.scale)
    if scale.synthesis.objective == 'energy_hinge' and scale.synthesis.margin is None:
        sys.exit('energy_hinge needs a margin in the scale here')
    if args.batch: scale = scale.replace(synthesis=dict(batch_size=args.batch))
    if args.quick: scale = scale.replace(synthesis=dict(steps=2, strength=1., iterations=2))
    measure = {'compare': compare, 'linear': linear}[args.what]
    with tempfile.TemporaryDirectory() as folder: figures = measure(args, scale, Path(folder))
    show(figures)
    if args.out: args.out.write_text(json.dumps(figures, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
