"""The size of an installation on disk: synood with its demo and all that they need.

    python tools/bench_install.py

Counts the files that pip lists for each distribution in the environment of this interpreter. "for NVIDIA's GPUs" is
what PyTorch brings for them: libraries in distributions of their own, and those inside PyTorch. A PyTorch for CPUs has
neither. What pip does not list, such as an editable installation's own folder, is not counted.
"""
import re
import sys
from importlib import metadata

from packaging.requirements import Requirement

from bench import run

FOR_GPUS = r'(nvidia|cuda|triton)(-|$)'  # distributions
GPU_FILES = r'(cuda|nvshmem|nvrtc)[^/]*\.so'  # inside PyTorch


def required(name, extras=('',), known=None):
    "Canonical names of a distribution with these extras and of all that it needs here."
    known = {} if known is None else known
    key = re.sub('[-_.]+', '-', name).lower()
    new = set(extras) - known.setdefault(key, set())
    known[key] |= new
    if not new: return known
    for line in metadata.requires(name) or ():
        needed = Requirement(line)
        if any(needed.marker is None or needed.marker.evaluate({'extra': extra}) for extra in new):
            required(needed.name, ('', *needed.extras), known)
    return known


def files_of(name):
    "{path inside the environment: bytes}."
    listed = metadata.files(name) or ()
    return {str(path): path.locate().stat().st_size for path in listed if path.locate().is_file()}


def table(root='synood', extras=('', 'demo')):
    "Gigabytes and distributions of everything, of what is for GPUs, and of the rest."
    sizes = {name: files_of(name) for name in required(root, extras)}
    gpu = {name for name in sizes if re.match(FOR_GPUS, name)}
    if not gpu: sys.exit('this environment has a PyTorch for CPUs: measure one with the PyTorch that pip installs')
    for_gpus = sum(sum(sizes[name].values()) for name in gpu)
    for_gpus += sum(size for path, size in sizes['torch'].items() if re.search(GPU_FILES, path))
    total = sum(sum(files.values()) for files in sizes.values())
    return {'all': dict(gigabytes=round(total/1e9, 2), distributions=len(sizes)),
            "for NVIDIA's GPUs": dict(gigabytes=round(for_gpus/1e9, 2), distributions=len(gpu)),
            'the rest': dict(gigabytes=round((total - for_gpus)/1e9, 2), distributions=len(sizes) - len(gpu))}


def measure(args):
    return dict(extras='demo'), {'size': table()}


def main(arguments=None): run(__doc__, lambda parser: None, measure, arguments)


if __name__ == '__main__': main()
