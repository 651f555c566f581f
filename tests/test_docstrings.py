"""Every public name says what it is, of which shapes, and which errors it raises itself.

Read from the syntax tree. A name is public when neither it nor its class begins with an underscore
and it stands in no function; an override is asked for no less than what it overrides. Shapes are
in the annotations or, as `[B, T]` or in words, in the docstring of the function or its class. A
list or a mapping of tensors has no one shape, and so is asked for none.
"""

import ast
import builtins
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

import pytest
from test_architecture import files, module_name

MAKING = ("__init__", "__post_init__")  # their errors are those of the class
TENSORS = {"Tensor", "ndarray", "NDArray"}
MANY = {"Callable", "Collection", "Iterable", "Iterator", "Mapping", "Sequence", "dict", "list"}
SHAPE = re.compile(r"`\[[^`]*\]`")
WORDS = re.compile(r"\b(scalar|any shape|same shape|in the shape of)\b")
RAISES = re.compile(r"^Raises:\n((?: .*\n?|\n)*)", re.MULTILINE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Known(NamedTuple):
    """All errors by name, and the functions that make one to raise, with the one they make."""

    errors: set[str]
    makers: dict[str, str]


class Item(NamedTuple):
    """A public class or function, and the docstring of the class that it stands in."""

    name: str
    node: ast.ClassDef | Function
    of: str


def is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def items(body: Iterable[ast.stmt], prefix: str = "", of: str = "") -> Iterator[Item]:
    """What a module or a class defines, and nothing that a function does."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from items([*node.body, *node.orelse], prefix, of)
        if not isinstance(node, ast.ClassDef | Function):
            continue
        if node.name.startswith("_") and not is_dunder(node.name):
            continue
        yield Item(prefix + node.name, node, of)
        if isinstance(node, ast.ClassDef):
            about = ast.get_docstring(node) or ""
            yield from items(node.body, f"{prefix}{node.name}.", about)


def last_name(node: ast.AST | None) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def family(error: str) -> set[str]:
    """An error's name, and those of the classes above it."""
    kind = getattr(builtins, error, Exception)
    return {error, *(above.__name__ for above in kind.__mro__)}


def caught(handlers: Iterable[ast.ExceptHandler]) -> set[str]:
    """What is caught and not raised again."""
    found = set()
    for handler in handlers:
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        again = any(isinstance(node, ast.Raise) and not node.exc for node in ast.walk(handler))
        found |= set() if again else {last_name(kind) or "BaseException" for kind in kinds}
    return found


def raised(node: ast.AST, makers: dict[str, str]) -> set[str]:
    """The errors that are raised here, by name, but not those in functions within.

    An error in a variable is left alone, for it came from elsewhere, and so is what an abstract
    method raises.
    """
    found: set[str] = set()
    if isinstance(node, ast.Raise):
        name = last_name(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
        name = makers.get(name, name)
        return {name} if name[:1].isupper() and name != "NotImplementedError" else found
    if isinstance(node, ast.Try):
        stopped = caught(node.handlers)
        inside = {error for part in node.body for error in raised(part, makers)}
        found |= {error for error in inside if not family(error) & stopped}
        parts: Iterable[ast.AST] = [*node.handlers, *node.orelse, *node.finalbody]
    else:
        parts = ast.iter_child_nodes(node)
    for part in parts:
        if not isinstance(part, ast.ClassDef | ast.Lambda | Function):
            found |= raised(part, makers)
    return found


def announced(docstring: str) -> set[str]:
    """The errors that the section `Raises` names."""
    section = RAISES.search(docstring)
    return set(re.findall(r"^    (\w+): \S", section[1], re.MULTILINE)) if section else set()


def is_bare(annotation: ast.AST | None) -> bool:
    """Whether an annotation has a tensor in it whose shape it does not say."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return is_bare(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.Subscript):
        parts = getattr(annotation.slice, "elts", [])
        says = len(parts) == 2 and isinstance(getattr(parts[1], "value", None), str)
        if says or last_name(annotation.value) in MANY:
            return False
    if last_name(annotation) in TENSORS:
        return True
    return annotation is not None and any(map(is_bare, ast.iter_child_nodes(annotation)))


def lacks_shapes(function: Function, docstring: str, of: str) -> bool:
    arguments = [node for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    annotations = [*(argument.annotation for argument in arguments), function.returns]
    text = RAISES.sub("", docstring)
    said = SHAPE.search(text) or WORDS.search(text) or SHAPE.search(of)
    return any(map(is_bare, annotations)) and not said


def faults(source: str, known: Known) -> list[str]:
    """What the docstrings of one module lack, each as a name and a sentence."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) else ["the module has no docstring"]
    for name, node, of in items(tree.body):
        docstring = ast.get_docstring(node) or ""
        if not docstring and not is_dunder(node.name):
            found.append(f"{name} has no docstring")
        unknown = sorted(announced(docstring) - known.errors)
        found += [f"{name}: its Raises has {error}, which is no error" for error in unknown]
        if isinstance(node, ast.ClassDef):
            continue
        said = announced(of if node.name in MAKING else docstring)
        where = "the Raises of its class" if node.name in MAKING else "its Raises"
        missing = sorted(raised(node, known.makers) - said)
        found += [f"{name} raises {error}: {where} lacks it" for error in missing]
        if lacks_shapes(node, docstring, of):
            found.append(f"{name} has tensors: say their shapes")
    return found


@cache
def library() -> Known:
    errors = {
        name
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    texts = [path.read_text(encoding="utf-8") for path in files()]
    nodes = [node for text in texts for node in ast.parse(text).body]
    classes = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    errors |= {name for name in classes if name.endswith("Error")}
    makers = {node.name: last_name(node.returns) for node in nodes if isinstance(node, Function)}
    return Known(errors, {name: made for name, made in makers.items() if made in errors})


@pytest.mark.parametrize("path", files(), ids=module_name)
def test_every_public_name_is_explained(path: Path) -> None:
    found = faults(path.read_text(encoding="utf-8"), library())
    assert not found, "\n".join(f"{module_name(path)}: {fault}" for fault in found)


def test_what_makes_errors_is_known() -> None:
    assert library().makers["damaged"] == "ValueError"
    assert {"ValueError", "DivergenceError", "StorageError"} <= library().errors


def at_fault(part: str) -> list[str]:
    return faults(f'"""A module."""\n{part}\n', library())


def define(head: str, docstring: str, body: str = "pass") -> str:
    return f'{head}:\n    """{docstring}\n    """\n{indent(body, "    ")}'


NAMED = "Do it.\n\n    Raises:\n        ValueError: for bad input."


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("class A: pass", "A"),
        ("def f():\n    pass", "f"),
        ("async def f():\n    pass", "f"),
        ("if x:\n    def f():\n        pass", "f"),
        (define("class A", "A.", "def f(self):\n    pass"), "A.f"),
        (define("class A", "A.", "class B: pass"), "A.B"),
    ],
)
def test_a_missing_docstring_is_found(part: str, name: str) -> None:
    assert at_fault(part) == [f"{name} has no docstring"]


def test_a_module_without_docstring_is_found() -> None:
    assert faults("X = 1\n", library()) == ["the module has no docstring"]


@pytest.mark.parametrize(
    "body",
    [
        "raise ValueError(x)",
        "raise ValueError",
        "raise builtins.ValueError(x) from None",
        "raise damaged(x, 'is missing')",
        "for y in x:\n    if y:\n        raise ValueError(y)",
        "try:\n    f()\nexcept KeyError:\n    raise ValueError(x) from None",
        "try:\n    raise ValueError(x)\nexcept KeyError:\n    pass",
        "try:\n    raise ValueError(x)\nexcept ValueError:\n    raise",
    ],
)
def test_an_error_that_is_not_named_is_found(body: str) -> None:
    lacking = ["f raises ValueError: its Raises lacks it"]
    assert at_fault(define("def f(x)", "Do it.", body)) == lacking
    assert at_fault(define("def f(x)", NAMED.replace("Value", "Key"), body)) == lacking
    assert not at_fault(define("def f(x)", NAMED, body))


@pytest.mark.parametrize(
    "body",
    [
        "raise NotImplementedError",
        "def g():\n    raise ValueError(x)",
        "try:\n    f()\nexcept ValueError:\n    raise",
        "error = f()\nraise error",
        "try:\n    raise KeyError(x)\nexcept (LookupError, OSError):\n    pass",
        "try:\n    raise KeyError(x)\nexcept:\n    pass",
    ],
)
def test_an_error_that_is_not_its_own_is_not_asked_for(body: str) -> None:
    assert not at_fault(define("def f(x)", "Do it.", body))


@pytest.mark.parametrize("name", MAKING)
def test_errors_of_making_stand_in_the_class(name: str) -> None:
    method = define(f"def {name}(self)", NAMED, "raise ValueError")
    lacking = [f"A.{name} raises ValueError: the Raises of its class lacks it"]
    assert at_fault(define("class A", "A.", method)) == lacking
    assert not at_fault(define("class A", NAMED, method))


def test_a_misspelt_error_is_found() -> None:
    wrong = define("def f()", NAMED.replace("ValueError", "ValueErorr"))
    assert at_fault(wrong) == ["f: its Raises has ValueErorr, which is no error"]


@pytest.mark.parametrize(
    "head",
    [
        "def f(x: Tensor)",
        "def f(x: torch.Tensor | None = None)",
        "def f(x: 'Tensor')",
        "def f(*x: np.ndarray)",
        "def f(*, x: tuple[int, Tensor])",
        "def f() -> tuple[Float[Tensor, 'B'], Tensor]",
    ],
)
def test_a_missing_shape_is_found(head: str) -> None:
    lacking = ["f has tensors: say their shapes"]
    assert at_fault(define(head, "Add [1, 2].")) == lacking
    assert at_fault(define(head, f"{NAMED[:-1]} of any shape.")) == lacking
    assert not at_fault(define(head, "Add `[B, T]`."))
    assert not at_fault(define(head, "Add to a scalar."))
    method = define(head, "Add.")
    assert at_fault(define("class A", "A scalar.", method)) == [f"A.{lacking[0]}"]
    assert not at_fault(define("class A", "All are `[B]`.", method))


@pytest.mark.parametrize(
    "head",
    [
        "def f(x: Float[Tensor, '*B T'])",
        "def f(x: Sequence[Tensor])",
        "def f(x: dict[str, Tensor] | None)",
        "def f(x: Callable[[Tensor], Tensor])",
        "def f(x: Tasks) -> tuple[int, str]",
    ],
)
def test_no_shape_is_asked_for(head: str) -> None:
    assert not at_fault(define(head, "Add."))


@pytest.mark.parametrize(
    "part",
    [
        "def _f(x: Tensor):\n    raise ValueError",
        "class _A:\n    def f(self, x: Tensor):\n        raise ValueError",
        define("class A", "A.", "def _f(self, x: Tensor):\n    raise ValueError"),
        define("def f()", "Do it.", "def g(x: Tensor):\n    raise ValueError"),
        define("class A", "A.", "def __len__(self):\n    return 1"),
    ],
)
def test_what_is_not_public_is_left_alone(part: str) -> None:
    assert not at_fault(part)
