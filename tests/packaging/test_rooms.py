"""A room imports only from itself and from rooms above it; no two modules of a room import each other."""
import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = [folder.name.split('_', 1)[1] for folder in sorted((ROOT/'nbs').glob('[0-9]_*'))]


def imports(path):
    "The modules of the package that a module imports, at its top or inside a function: ('core', 'scales')."
    package = path.relative_to(ROOT).with_suffix('').parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            targets = [alias.name.split('.') for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[:len(package) + 1 - node.level]) if node.level else []
            base += node.module.split('.') if node.module else []
            targets = [base] if len(base) > 2 else [[*base, alias.name] for alias in node.names]
        else: continue
        yield from (tuple(parts[1:3]) for parts in targets if parts[0] == 'synood' and len(parts) > 2)


def modules():
    return {path: (path.parent.name, path.stem) for path in sorted((ROOT/'synood').glob('*/*.py'))}


def test_rooms_and_packages_are_the_same():
    assert {room for room, _ in modules().values()} == set(ROOMS) - {'experiments'}


def test_a_room_imports_only_from_rooms_above_it():
    wrong = [f'{room}.{name} imports {".".join(target)}' for path, (room, name) in modules().items()
             for target in imports(path) if ROOMS.index(target[0]) > ROOMS.index(room)]
    assert wrong == []


def test_modules_of_a_room_import_each_other_in_one_direction():
    graph = {(room, name): {target for target in imports(path) if target[0] == room and target != (room, name)}
             for path, (room, name) in modules().items() if name != '__init__'}
    list(TopologicalSorter(graph).static_order())  # CycleError names a circle
