"""Settings, names, stage files, rows and saved detectors with random damage: accepted and sound, or refused in one line that says where."""
import json
import math
import shutil
import subprocess
import sys
import unicodedata
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from safetensors.numpy import load_file, save

from synood.cli import main
from synood.detector import OODDetector
from synood.images import ImageSet, open_sets, read_selection, write_sets
from synood.runs import ROW, Rows, merge_rows, read_rows
from synood.scales import Scale, check_scale, get_scale
from synood.synthesis import read_synthetic, save_images, write_records

KEPT = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
few, many = settings(KEPT, max_examples=60), settings(KEPT, max_examples=2000)


def both(given_, name):
    "Two tests of one body, put into this module: a short one, and a slow one under the same name with `_long`."
    def register(body):
        globals()[f'test_{name}'] = few(given_(body))
        globals()[f'test_{name}_long'] = pytest.mark.slow(many(given_(partial_copy(body))))
        return body
    return register


def partial_copy(body):
    "The same function once more, for hypothesis marks what it wraps."
    import types
    copy = types.FunctionType(body.__code__, body.__globals__, body.__name__ + '_long', body.__defaults__, body.__closure__)
    copy.__kwdefaults__ = body.__kwdefaults__
    return copy


def outcome(work, *where):
    "What `work` returns, or None if it refuses in one line that holds every text of `where`."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: return work()
        except (ValueError, OSError) as e:
            said = str(e)
            assert said and len(said.splitlines()) == 1 and len(said) < 3000, said
            assert all(str(part) in said for part in where), said
