"""The benchmarks: synood beside the straightforward way, both in one run.

    python tools/bench.py                  those that take about ten CPU-minutes together; `make bench`
    python tools/bench.py scores prompts   these; `make bench BENCH="scores prompts"`
    python tools/bench.py reproduce        and `rehearsal`, `photographs`, `test`: minutes of `synood reproduce` at
                                           three scales, and of `make test`, when named

Each runs in a process of its own and writes paper_figures/bench/NAME.json, where the notebooks read it. Each is also a
script that measures at larger sizes, see its --help. What these scripts share stands here: the clock, turns, the
printed tables, the file.

A file has three parts. `ran`: versions, threads, device, the load of the machine when it began, CPU-seconds.
`settings`: sizes. `tables`: {table: {row: {column: number}}}.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

TOOLS = Path(__file__).resolve().parent
FOLDER = TOOLS.parent/'paper_figures'/'bench'
BENCHES = {
    'imports': ['bench_imports.py'],
    'install': ['bench_install.py'],
    'scores': ['bench_scores.py'],
    'inference': ['bench_inference.py'],
    'stream': ['bench_stream.py'],
    'photos': ['bench_photos.py'],
    'prompts': ['bench_prompts.py'],
    'prompts_full': ['bench_prompts.py', '--clip', 'random:clip', '--classes', '20', '--steps', '1', '--repeats', '1'],
    'synthesis': ['bench_synthesis.py'],
    'growth': ['bench_synthesis.py', 'growth'],
}
LONG = {name: ['bench_minutes.py', name] for name in ('reproduce', 'rehearsal', 'test', 'photographs')}


# ---- the clock ----------------------------------------------------------------------------------

def wait_for_gpu():
    import torch
    if torch.cuda.is_available(): torch.cuda.synchronize()


def clocked(call):
    "Seconds, and what the call returned."
    wait_for_gpu()
    started = time.perf_counter()
    result = call()
    wait_for_gpu()
    return time.perf_counter() - started, result


def seconds(call):
    return clocked(call)[0]


def in_turn(measurements, repeats):
    "{name: what each call returned}; the calls take turns, so that a slow minute hits all of them."
    turns = [{name: measure() for name, measure in measurements.items()} for _ in range(repeats)]
    return {name: [turn[name] for turn in turns] for name in measurements}


def side_by_side(reference, ours):
    """Columns of a table from the seconds of both sides, turn by turn.

    The speedup is reference/ours within one turn: its median, lowest and highest."""
    ratios = [theirs/mine for theirs, mine in zip(reference, ours, strict=True)]
    return dict(reference_seconds=median(reference), seconds=median(ours), speedup=median(ratios),
                lowest=min(ratios), highest=max(ratios))


def cpu_seconds():
    "User and system time of this process and of those that it has waited for, of all threads."
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


# ---- figures ------------------------------------------------------------------------------------

def conditions(began):
    "What ran: `began` is the load of the machine at the start, in processes that wanted a core."
    import torch
    from synood.core.stages import versions
    gpu = torch.cuda.is_available()
    return dict(device=torch.cuda.get_device_name() if gpu else 'CPU', cores=os.cpu_count(),
                threads=torch.get_num_threads(), load=round(began, 1), cpu_seconds=round(cpu_seconds(), 1),
                packages=versions())


def as_words(value):
    if isinstance(value, float): return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.3g}'
    return f'{value:,}' if isinstance(value, int) else str(value)


def as_lines(name, rows):
    "One table for people."
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [[name, *columns]]
    cells += [[row, *(as_words(values.get(column, '')) for column in columns)] for row, values in rows.items()]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ['  '.join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]).rstrip()
            for row in cells]


def one_of(known):
    "Turns a word of the command line into itself, if it is known."
    def checked(word):
        if word not in known: raise argparse.ArgumentTypeError(f'unknown {word}: choose from {", ".join(known)}')
        return word
    return checked


def run(doc, options, measure, arguments=None):
    """The main function of a benchmark: reads the command line, measures, prints, and writes with `--out`.

    options: parser -> nothing, adds arguments; measure: parsed arguments -> (settings, tables)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser)
    parser.add_argument('--out', type=Path, help='write all figures here as JSON')
    chosen = parser.parse_args(arguments)
    began = os.getloadavg()[0]
    settings, tables = measure(chosen)
    figures = dict(ran=conditions(began), settings=settings, tables=tables)
    for part in ('ran', 'settings'):
        print(', '.join(f'{key} {as_words(value)}' for key, value in figures[part].items() if key != 'packages'))
    for name, rows in tables.items(): print('', *as_lines(name, rows), sep='\n')
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(figures, indent=1) + '\n', encoding='utf-8')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = BENCHES | LONG
    parser.add_argument('names', nargs='*', metavar='NAME', type=one_of(known), help=f'which: {", ".join(known)}')
    chosen = parser.parse_args()
    for name in chosen.names or BENCHES:
        print(f'== {name}', flush=True)
        script, *options = known[name]
        done = subprocess.run([sys.executable, TOOLS/script, *options, '--out', FOLDER/f'{name}.json'], check=False)
        if done.returncode: sys.exit(done.returncode)
        print(flush=True)


if __name__ == '__main__': main()
