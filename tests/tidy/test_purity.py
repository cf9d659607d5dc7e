"""What code may not do where it stands, beyond what import contracts can see."""

import ast

# The core takes `now`, ids and seeds as arguments.
IMPURE = {
    "datetime.date.today", "datetime.datetime.now", "datetime.datetime.today", "datetime.datetime.utcnow",
    "input", "open", "print",
    "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.sleep", "time.time", "time.time_ns",
    "uuid.uuid1", "uuid.uuid4",
}  # fmt: skip

# Bytes from users are only ever opened in the user's own container, or by the client that sent them.
UNPICKLERS = {"pickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve"}


def test_the_core_is_told_the_time(rooms):
    assert not [
        f"{source.name}:{call.lineno}: {name}()"
        for source in rooms("core", "values")
        for name, call in source.calls()
        if name in IMPURE or name.startswith(("random.", "secrets."))
    ]


def test_the_control_plane_never_unpickles(rooms):
    assert not [
        f"{source.name}:{line}: imports {name}"
        for source in rooms("server", "worker", "gateway", "dashboard", "drivers", "ports", "wire", "core", "values")
        for name, line in source.imports()
        if name.split(".")[0] in UNPICKLERS
    ]


# Values that have a field `shell`: the words that an image runs its commands with.
OF_AN_IMAGE = {"BuiltImage", "ImageFile", "ImagePlan", "PulledImage", "RootFile", "Step"}


def test_no_shells(package, tests):
    assert not [
        f"{source.name}:{keyword.value.lineno}: shell=True"
        for source in [*package, *tests]
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] not in OF_AN_IMAGE
        for keyword in node.keywords
        if keyword.arg == "shell" and not _is_false(keyword.value)
    ]


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False
