"""What `reproduce` runs of a notebook, its stage cells and what they need, stands alone: no name is left undefined."""
import ast
import builtins

import pytest

from synood.core.notebooks import batch_cells, find_notebooks, notebook_name, notebook_source, read_notebook

IN_A_KERNEL = {'display', 'get_ipython'}


def bound_names(tree):
    "All names that a module, its functions and its comprehensions bind."
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()): yield name
            case ast.Import() | ast.ImportFrom(): yield from ((a.asname or a.name).split('.')[0] for a in node.names)
            case ast.FunctionDef() | ast.ClassDef(): yield node.name
            case ast.arg(): yield node.arg
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)): yield name


def undefined_names(source):
    tree = ast.parse(source)
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return sorted(read - set(bound_names(tree)) - set(dir(builtins)) - IN_A_KERNEL)


def test_an_undefined_name_is_found():
    assert undefined_names('def f(a, *b):\n    return [c for c in a] + g(b)\nimport os.path as p; print(p, f)') == ['g']


@pytest.mark.parametrize('path', find_notebooks(), ids=notebook_name)
def test_every_name_is_defined(path):
    assert undefined_names(notebook_source(batch_cells(read_notebook(path)))) == []
