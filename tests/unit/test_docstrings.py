"""What docstrings refer to exists: cross references, parameters, attributes."""

import ast
import enum
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import gmdp
import gmdp.wsgi
from gmdp import BrokerOptions, testing
from gmdp.testing import deadline, leaks

#: What docstrings say does not depend on the interpreter.
pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gmdp"
ROLE = re.compile(r":(?:mod|class|meth|func|data|attr|exc|const):`([^`]+)`")
#: A section of a docstring, as Google's style has them.
SECTION = re.compile(r"^(?P<title>[A-Z][a-z]+):$", re.M)
#: A parameter or attribute at the beginning of a section's line: ``name:`` or ``*name (type):``.
ENTRY = re.compile(r"^\*{0,2}(\w+)(?: \([^)]*\))?:(?: |$)")

#: Modules that cannot be imported in every environment; they are read, not imported.
NOT_IMPORTED = ("gmdp.cli", "gmdp.__main__", "gmdp.testing.__main__")


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES["gmdp_pytest"] = ROOT / "gmdp_pytest.py"


def documented(tree):
    """Each (name of the enclosing class or None, docstring, line), comments with ``#:`` included."""

    def walk(node, class_name):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node)
            inside = node.name if isinstance(node, ast.ClassDef) else class_name
            if text:
                yield inside, text, getattr(node, "lineno", 1)
            for child in node.body:
                yield from walk(child, inside)

    yield from walk(tree, None)


def names_in(tree):
    """By class (None: the module): the names it has, attributes set on self included."""
    names = {None: set()}

    def targets(node):
        for target in getattr(node, "targets", None) or [node.target]:
            for one in ast.walk(target):
                if isinstance(one, ast.Name):
                    yield one.id

    def collect(body, found):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                found.update(targets(node))
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                found.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
            elif isinstance(node, (ast.If, ast.Try)):
                collect(node.body, found)

    collect(tree.body, names[None])
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found = names.setdefault(node.name, set())
            collect(node.body, found)
            for one in ast.walk(node):
                if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id == "self":
                    found.add(one.attr)
    return names


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
NAMES = {name: names_in(tree) for name, tree in TREES.items()}
NAMES["gmdp"][None] |= NAMES["gmdp.public"][None]  # it takes its names from there


def has(module, path):
    """Does `module` define the dotted `path`: a name, or a class and a name of it?"""
    first, _, rest = path.partition(".")
    if not rest:
        if first in NAMES[module][None]:
            return True
        return f"{module}.{first}" in MODULES
    if rest in NAMES[module].get(first, ()):
        return True
    if first in NAMES[module].get(None, ()):  # imported from elsewhere, or inherited
        return any(rest in names.get(first, ()) or has_inherited(first, rest) for names in NAMES.values())
    return False


#: By name: the module of each class of that name, and the names of its bases.
CLASSES = {}
for _module, _tree in TREES.items():
    for _node in ast.walk(_tree):
        if isinstance(_node, ast.ClassDef):
            _bases = [base.value if isinstance(base, ast.Subscript) else base for base in _node.bases]
            CLASSES.setdefault(_node.name, []).append(
                (_module, [one.id for one in _bases if isinstance(one, ast.Name)])
            )


def has_inherited(class_name, attribute):
    """Does a class of this name, or one that it inherits from, have the attribute?"""
    return any(
        attribute in NAMES[module][class_name] or any(has_inherited(base, attribute) for base in bases)
        for module, bases in CLASSES.get(class_name, ())
    )


def leads_somewhere(reference, module, class_name):
    """Does a cross reference in a docstring of this module and class lead to something that exists?"""
    reference = reference.removeprefix("!").lstrip("~")
    if "<" in reference:
        reference = reference.partition("<")[2].rstrip(">")
    reference = reference.removesuffix("()")
    if reference.startswith("."):
        # As Sphinx has it: any module or name that ends so.
        path = reference.lstrip(".")
        if any(name == path or name.endswith(f".{path}") for name in MODULES):
            return True
        return any(found(name, path) for name in MODULES)
    if class_name is not None and "." not in reference and has_inherited(class_name, reference):
        return True
    if has(module, reference):
        return True
    for at in range(reference.count(".") + 1, 0, -1):
        parts = reference.split(".")
        prefix, rest = ".".join(parts[:at]), ".".join(parts[at:])
        if prefix in MODULES:
            return not rest or has(prefix, rest)
        if prefix.split(".")[0] in ("gmdp", "gmdp_pytest"):
            continue
        try:
            target = importlib.import_module(prefix)
        except ImportError:
            continue
        for name in filter(None, rest.split(".")):
            target = getattr(target, name, None)
        return target is not None
    return False


def found(module, path):
    """Does `path`, the last parts of a dotted name, end in something that `module` has?"""
    head, _, rest = path.partition(".")
    if not rest:
        return has(module, head)
    return has(module, path) or (module.rpartition(".")[2] == head and has(module, rest))


@pytest.mark.parametrize("module", list(MODULES))
def test_every_cross_reference_leads_somewhere(module):
    lost = []
    for class_name, text, line in documented(TREES[module]):
        for reference in ROLE.findall(text):
            if not leads_somewhere(reference, module, class_name):
                lost.append(f"{MODULES[module].name}, docstring of line {line}: {reference}")
    for number, line in enumerate(MODULES[module].read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("#"):
            for reference in ROLE.findall(line):
                if not any(leads_somewhere(reference, module, name) for name in NAMES[module]):
                    lost.append(f"{MODULES[module].name}:{number}: {reference}")
    assert lost == []


@pytest.mark.parametrize(
    "reference", [":class:`~.NoSuchClass`", ":meth:`Client.no_such_method`", ":mod:`gmdp.nowhere`"]
)
def test_a_reference_to_nothing_is_found_out(reference):
    (name,) = ROLE.findall(reference)
    assert not leads_somewhere(name, "gmdp.client.client", "Client")


def sections(docstring):
    """The entries of each section of a docstring: {"Args": ["name", …], …}."""
    text = inspect.cleandoc(docstring)
    parts = SECTION.split(text)
    found = {}
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        names = []
        for line in body.splitlines():
            if line and not line.startswith(" "):
                break  # the section has ended
            entry = ENTRY.match(line[4:]) if line.startswith("    ") and not line.startswith("     ") else None
            if entry is not None:
                names.append(entry[1])
        found[title] = names
    return found


def functions(tree):
    """Each function and class with a docstring: (name, its docstring's sections, its parameters)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            function, text = node, ast.get_docstring(node)
        elif isinstance(node, ast.ClassDef):
            text = ast.get_docstring(node)
            made = [
                one for one in node.body if isinstance(one, ast.FunctionDef) and one.name in ("__init__", "__new__")
            ]
            fields = [
                one.target.id
                for one in node.body
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
            ]
            function = made[0] if made else None
        else:
            continue
        if not text:
            continue
        parameters = []
        if function is not None:
            arguments = function.args
            parameters = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            parameters += [one.arg for one in (arguments.vararg, arguments.kwarg) if one is not None]
        elif isinstance(node, ast.ClassDef):
            parameters = fields
        yield node, sections(text), parameters


@pytest.mark.parametrize("module", list(MODULES))
def test_every_documented_parameter_exists(module):
    unknown = []
    for node, found, parameters in functions(TREES[module]):
        for name in found.get("Args", ()):
            if name not in parameters:
                unknown.append(f"{MODULES[module].name}:{node.lineno}: {node.name} has no parameter {name}")
        if isinstance(node, ast.ClassDef):
            for name in found.get("Attributes", ()):
                if name not in NAMES[module][node.name] and not has_inherited(node.name, name):
                    unknown.append(f"{MODULES[module].name}:{node.lineno}: {node.name} has no attribute {name}")
    assert unknown == []


def public_classes_and_functions():
    """(name, thing) of all that users make or call."""
    for owner in (gmdp, gmdp.wsgi):
        yield from ((name, getattr(owner, name)) for name in owner.__all__)
    yield "Simulation", testing.Simulation
    for owner in (deadline, leaks):
        for name, thing in vars(owner).items():
            if not name.startswith("_") and getattr(thing, "__module__", "") == owner.__name__:
                yield name, thing


def documents():
    """(name, function, docstring, whether it is a class's own) of what users call."""
    for name, thing in public_classes_and_functions():
        if inspect.isfunction(thing):
            yield name, thing, thing.__doc__, False
        elif inspect.isclass(thing) and not issubclass(thing, (BaseException, tuple, enum.Enum)):
            if inspect.isfunction(thing.__init__) and not hasattr(thing, "__dataclass_fields__"):
                # A constructor that is inherited is documented where it is defined.
                maker = next(base for base in thing.__mro__ if "__init__" in vars(base))
                yield name, thing.__init__, maker.__doc__, True
            for base in thing.__mro__:
                for method_name, method in vars(base).items() if base.__module__.startswith("gmdp") else ():
                    if inspect.isfunction(method) and not method_name.startswith("_"):
                        yield f"{name}.{method_name}", method, method.__doc__, False


DOCUMENTS = list(documents())


@pytest.mark.parametrize(("name", "function", "text", "of_class"), DOCUMENTS, ids=[one[0] for one in DOCUMENTS])
def test_every_parameter_of_what_is_public_is_documented(name, function, text, of_class):
    """A class gives each a line of its own; a method may also name its parameter in a sentence."""
    parameters = [one for one in inspect.signature(function).parameters if one != "self"]
    described = sections(text or "").get("Args", [])
    if ":class:`gmdp.BrokerOptions`, which describes them" in (text or ""):
        described = [*described, "unknown"]
        for options in BrokerOptions.__mro__[:-1]:
            described += sections(options.__doc__)["Attributes"]
    named = [] if of_class else re.findall(r"(?<!`)`(\w+)`(?!`)", text or "")
    assert [one for one in parameters if one not in described and one not in named] == []


def test_the_state_machines_are_drawn_from_their_tables():
    spec = importlib.util.spec_from_file_location("draw_states", ROOT / "docs" / "draw_states.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    page = draw.PAGE.read_text(encoding="utf-8")
    assert draw.page_with_drawings(page) == page, "run python docs/draw_states.py"


def test_the_paths_that_the_pages_name_exist():
    missing = []
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tests/**/*.md")):
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"(?<![\w/.-])((?:tests|docs|bench|examples|gmdp)/[\w/.-]+\.(?:py|md|json))", text):
            if not (ROOT / path).exists():
                missing.append(f"{page.name}: {path}")
        for path in re.findall(r"\]\(([^)#:]+)\)", text):
            if not (page.parent / path).exists():
                missing.append(f"{page.name}: {path}")
        if page.name == "architecture.md":
            for path in re.findall(
                r"`((?:core|protocol|io|client|worker|broker|security|http|cli)/[\w/]*\.?\w*)`", text
            ):
                if not any((PACKAGE / name).exists() for name in (path, f"{path}.py")):
                    missing.append(f"{page.name}: {path}")
    assert missing == []
