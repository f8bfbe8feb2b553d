"""Each module says which of its names are for others."""

import ast
import importlib
import inspect
import pkgutil

import pytest

import wsol_ext

MODULES = [
    module
    for module in pkgutil.walk_packages(wsol_ext.__path__, "wsol_ext.")
    if not any(part.startswith("_") for part in module.name.split("."))
]
PACKAGES = ["wsol_ext", *(module.name for module in MODULES if module.ispkg)]


def defined(source):
    """The names without an underscore that a source gives something to, imports left out."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("name", [module.name for module in MODULES if not module.ispkg])
def test_module_lists_what_it_defines_and_nothing_else(name):
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(defined(inspect.getsource(module)))


@pytest.mark.parametrize("name", PACKAGES)
def test_package_shows_the_names_it_lists_those_that_come_on_first_use_too(name):
    package = importlib.import_module(name)
    listed = getattr(package, "__all__", [])
    assert set(listed) <= set(dir(package))
    for each in listed:
        assert getattr(package, each) is not None
    assert listed or not defined(inspect.getsource(package))


@pytest.mark.parametrize(
    "name", [name for name in PACKAGES if "on_first_use" in vars(importlib.import_module(name))]
)
def test_package_of_late_names_shows_no_imports(name):
    assert "on_first_use" not in dir(importlib.import_module(name))
