"""Over a limit, something has two jobs. The limits are ratchets: they only go down."""

import ast

FUNCTION_LINES_MAX = 70
CLASS_LINES_MAX = 300
FILE_LINES_MAX = 500


def _long(package, kinds, limit):
    """Definitions longer than the limit, counted from their first line to their last, decorators apart."""
    return [
        f"{source.name}:{node.lineno}: {node.name} has {length} lines, of {limit} at most"
        for source in package
        for node in ast.walk(source.tree)
        if isinstance(node, kinds)
        for length in [(node.end_lineno or node.lineno) - node.lineno + 1]
        if length > limit
    ]


def test_functions_fit_on_a_screen(package):
    assert not _long(package, (ast.FunctionDef, ast.AsyncFunctionDef), FUNCTION_LINES_MAX)


def test_classes_have_one_job(package):
    assert not _long(package, ast.ClassDef, CLASS_LINES_MAX)


def test_files_have_one_job(package):
    assert not [
        f"{source.name}: {len(source.lines)} lines, of {FILE_LINES_MAX} at most"
        for source in package
        if len(source.lines) > FILE_LINES_MAX
    ]
