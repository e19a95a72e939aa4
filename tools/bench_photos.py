"""What a photograph and a sentence cost the encoder of the scale `photos`: milliseconds of CPU and by the clock.

    python tools/bench_photos.py                      the photographs that ship with the package
    python tools/bench_photos.py --photographs FOLDER --count 200

A photograph is read from its file, resized and scored: by PyTorch, as a detector does it, and from an exported detector
by ONNX Runtime, with as many threads as score.py of the export takes and with one. Reading and resizing alone stand
beside them. A sentence is one about a class of ImageNet, read alone, or in batches as a detector reads the names of its
classes. Each figure is the median over the items, of a batch the share of one of its sentences.
"""
import runpy
import tempfile
from pathlib import Path

import onnxruntime

from bench import run
from synood.app.encoder import class_sentences, median_ms
from synood.data.examples import example_photographs
from synood.data.images import image_folder
from synood.detector import OODDetector
from synood.models.clip import encode_text, load_clip

BATCH = 50  # names of classes, as many as a division of Caltech-101 has


def image_calls(detector, folder):
    "{way: a function of a path}."
    program = runpy.run_path(str(detector.export_onnx(folder)/'score.py'))
    about, session = program['opened'](folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    single = onnxruntime.InferenceSession(folder/'detector.onnx', options, providers=['CPUExecutionProvider'])

    def pixels(path): return program['pixels'](path, about['resize'], about['orient'])
    return {'read and resize': pixels, 'PyTorch': detector.score,
            'ONNX': lambda path: session.run(None, {'image': pixels(path)[None]}),
            'ONNX, one thread': lambda path: single.run(None, {'image': pixels(path)[None]})}


def options(parser):
    parser.add_argument('--photographs', type=Path, help='a folder of them; default: those of the package')
    parser.add_argument('--count', type=int, default=70, help='photographs, some more than once if there are fewer')
    parser.add_argument('--sentences', type=int, default=50)


def measure(args):
    paths = image_folder(args.photographs, labelled=False).paths if args.photographs else [
        photograph.path for photograph in example_photographs().values()]
    paths = (paths*args.count)[:args.count]
    sentences = class_sentences()
    clip = load_clip(('embedded:photos',))
    with tempfile.TemporaryDirectory() as place:
        calls = image_calls(OODDetector.from_names(['cat', 'coffee cup', 'pagoda']), Path(place)/'onnx')
        image = {way: median_ms(call, paths) for way, call in calls.items()}
    every = max(1, len(sentences)//args.sentences)
    text = {'PyTorch': median_ms(lambda sentence: encode_text(clip, [sentence]), sentences[::every][:args.sentences])}
    batches = [sentences[k:k + BATCH] for k in range(0, BATCH*3, BATCH)]
    batched = median_ms(lambda batch: encode_text(clip, batch), batches)
    text[f'PyTorch, {BATCH} at once'] = {unit: value/BATCH for unit, value in batched.items()}
    settings = dict(photographs='a folder' if args.photographs else 'examples', count=len(paths),
                    sentences=args.sentences)
    return settings, {'image': image, 'text': text}


def main(arguments=None): run(__doc__, options, measure, arguments)


if __name__ == '__main__': main()
