"""What a score costs beside CLIP: milliseconds an image and parameters of CLIP alone, with NegLabel, with SynOOD.

    python tools/bench_inference.py        random weights of ViT-B/16, 1,000 classes, 10,499 negative labels
    python tools/bench_inference.py --clip embedded:clip --classes 20 --negatives 99 --batches 1,8
    python tools/bench_inference.py --clip ViT-B-16-quickgelu/openai --out figures.json

Decoding an image is not counted, it is the same for all three. The paper claims less than 2 ms an image and less than
1 % of parameters.
"""
import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from synood.evaluation.costs import count_parameters as count
from synood.models.clip import encode_pixels, load_clip
from synood.outliers.finetuning import SynOOD
from synood.core.stages import versions
from synood.core.scales import get_scale
from synood.scores.method import NegLabel, Synthetic, TrainData


def training(clip, classes, negatives):
    "Random features in the place of words and pictures: the time of a score does not depend on their values."
    draw = np.random.default_rng(0)

    def rows(count): return draw.standard_normal((count, clip.width)).astype(np.float32)
    synthetic = Synthetic(rows(classes), rows(classes), np.arange(classes), None)
    scale = get_scale('paper').replace(finetuning=dict(projection_epochs=1, label_epochs=1))
    return TrainData(features={}, labels=np.arange(classes), text=rows(classes), negatives=rows(negatives),
                     rest=rows(0),
                 prompts=(), logit_scale=clip.logit_scale, clip=lambda: clip, head=None,
                 synthetic=lambda kind: synthetic, stage=None, seed=0, scale=scale)


def milliseconds(function, count, repeats):
    "Median over repeats, of one image."
    function()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return 1000*median(taken)/count


def measure(clip, fitted, batch, repeats):
    "{name: ms an image}; a method's is CLIP's and what its score takes."
    side = clip.model.visual.image_size
    pixels = torch.rand(batch, 3, *np.broadcast_to(side, 2), generator=torch.Generator().manual_seed(0))
    features = encode_pixels(clip, pixels)  # waits for the GPU: the result is an array
    alone = milliseconds(lambda: encode_pixels(clip, pixels), batch, repeats)
    times = {'CLIP': alone}
    for name, method in fitted.items():
        times[name] = alone + milliseconds(lambda: method.score({('clip', 'image'): features}), batch, repeats)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--clip', default='random:clip')
    parser.add_argument('--classes', type=int, default=1000)
    parser.add_argument('--negatives', type=int, default=10_499)
    parser.add_argument('--batches', default='1,64', help='images at a time')
    parser.add_argument('--repeats', type=int, default=10)
    parser.add_argument('--out', type=Path, help='write all figures here as JSON')
    args = parser.parse_args()
    clip = load_clip((args.clip,))
    train = training(clip, args.classes, args.negatives)
    fitted = {name: method.fit(train) for name, method in (('NegLabel', NegLabel()), ('SynOOD', SynOOD()))}
    whole = count(clip.model)
    parameters = {'CLIP': whole, 'NegLabel': whole, 'SynOOD': whole + count(fitted['SynOOD'].projection)}
    ms = {batch: measure(clip, fitted, batch, args.repeats) for batch in map(int, args.batches.split(','))}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} threads'
    print(f'{args.clip}, {args.classes} classes, {args.negatives} negative labels; {device}')
    print(f"{'':10}{'parameters':>14}{'more':>8}" + ''.join(f'{f"ms at {b}":>12}{"more":>8}' for b in ms))
    for name, n in parameters.items():
        columns = [f'{times[name]:>12.2f}{times[name] - times["CLIP"]:>8.3f}' for times in ms.values()]
        print(f'{name:10}{n:>14,}{n/whole - 1:>8.2%}' + ''.join(columns))
    if args.out:
        figures = dict(command=' '.join(['python', 'tools/bench_inference.py', *sys.argv[1:]]), device=device,
                       packages=versions(), parameters=parameters, ms=ms)
        args.out.write_text(json.dumps(figures, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
