"""Reads which modules of a Rust crate use which: the part of check_modules.py that knows the language.

A use is a path that begins with `crate`, `super`, `self` or the name of a child module, in a `use` declaration, in code
or in the arguments of a macro. A name that a module only passes on (`pub use error::RpcError`) counts for the module it
comes from. Tests are free: what stands under `#[cfg(test)]`, files named `tests.rs` or `*_tests.rs`, folders named
`tests`. Calls of methods are not seen, because their paths are not written: private fields and methods are the wall
there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tree_sitter_rust
from tree_sitter import Language, Node, Parser

Module = tuple[str, ...]

PARSER = Parser(Language(tree_sitter_rust.language()))

# What a path's words are made of; any other token ends the path.
WORDS = {"identifier", "type_identifier", "crate", "super", "self"}
# Subtrees without paths that count: documentation may link upwards, and visibility names who may look in.
SILENT = {"line_comment", "block_comment", "string_literal", "raw_string_literal", "visibility_modifier"}


@dataclass(frozen=True)
class Use:
    """One path in the code: where it stands, and what it names."""

    user: Module
    path: tuple[str, ...]
    file: Path
    line: int


@dataclass
class Source:
    """What was read of one crate."""

    modules: set[Module] = field(default_factory=set)
    tests: set[Module] = field(default_factory=set)
    # (module, name) -> the full path of what the name was imported from.
    imports: dict[tuple[Module, str], tuple[str, ...]] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)

    def owner(self, path: tuple[str, ...]) -> Module:
        """The module that defines what a full path names, or passes it on from another crate."""
        seen = set()
        while path not in seen:
            seen.add(path)
            depth = max(length for length in range(len(path) + 1) if path[:length] in self.modules)
            module, rest = path[:depth], path[depth:]
            imported = self.imports.get((module, rest[0])) if rest else None
            if imported is None:
                return module
            path = imported + rest[1:]
        return module


def read_crate(src: Path) -> Source:
    """Reads all files below a crate's `src`, but for tests and programs."""
    source = Source(modules={()})
    files = {}
    for file in sorted(src.rglob("*.rs")):
        parts = file.relative_to(src).with_suffix("").parts
        if parts[0] == "bin" or any(part == "tests" or part.endswith("_tests") for part in parts):
            continue
        module = parts[:-1] if parts[-1] in {"mod", "lib", "main"} else parts
        source.modules.add(module)
        files[file] = module
    trees = {file: PARSER.parse(file.read_bytes()).root_node for file in files}
    # First all modules and what is a test: a path is understood by them.
    for file, module in files.items():
        find_modules(trees[file], module, source)
    for file, module in files.items():
        if not is_test(module, source):
            read_items(trees[file], module, file, source)
    return source


def undeclared_files(src: Path) -> list[Path]:
    """The files below a crate's `src` that no `mod` names: the compiler does not see them."""
    declared = set()
    for file in src.rglob("*.rs"):
        names_folder = file.stem in {"lib", "main", "mod"} or file.parent.name == "bin"
        folder = file.parent if names_folder else file.with_suffix("")
        declared |= files_of_modules(PARSER.parse(file.read_bytes()).root_node, file.parent, folder)
    roots = {src / "lib.rs", src / "main.rs", *src.glob("bin/*.rs")}
    return sorted(set(src.rglob("*.rs")) - declared - roots)


def files_of_modules(parent: Node, beside: Path, below: Path) -> set[Path]:
    """Where the modules that a file declares may be: by their names, or by an attribute that says it."""
    files: set[Path] = set()
    attribute_path = None
    for child in parent.children:
        if child.type == "attribute_item":
            said = text(child).partition('path = "')[2].partition('"')[0]
            attribute_path = beside / said if said else attribute_path
            continue
        if child.type == "mod_item":
            name = child_module(child, ())[0]
            body = child.child_by_field_name("body")
            if body is not None:
                files |= files_of_modules(body, below / name, below / name)
            elif attribute_path is not None:
                files.add(attribute_path)
            else:
                files |= {below / f"{name}.rs", below / name / "mod.rs"}
        if child.type not in {"line_comment", "block_comment"}:
            attribute_path = None
    return files


def is_test(module: Module, source: Source) -> bool:
    """Whether the module or one around it is compiled for tests only."""
    return any(module[:length] in source.tests for length in range(1, len(module) + 1))


def text(node: Node) -> str:
    """The node's source text."""
    return (node.text or b"").decode()


def items(parent: Node) -> Iterator[tuple[Node, bool]]:
    """The children of a node, each with whether an attribute before it says that it is for tests only."""
    for_tests = False
    for child in parent.children:
        if child.type == "attribute_item":
            words = text(child).replace(" ", "").removeprefix("#[cfg(")
            for_tests = for_tests or words.startswith(("test)", "any(test,", "all(test,"))
        elif child.type not in {"line_comment", "block_comment"}:
            yield child, for_tests
            for_tests = False


def child_module(node: Node, module: Module) -> Module:
    """The module that a `mod` item declares."""
    name = node.child_by_field_name("name")
    assert name is not None, "the grammar names every module"
    return (*module, text(name))


def find_modules(parent: Node, module: Module, source: Source) -> None:
    """Notes the modules that are written inside a file, and those that are for tests only."""
    for item, for_tests in items(parent):
        if item.type != "mod_item":
            continue
        child = child_module(item, module)
        if for_tests:
            source.tests.add(child)
        body = item.child_by_field_name("body")
        if body is not None:
            source.modules.add(child)
            find_modules(body, child, source)


def read_items(parent: Node, module: Module, file: Path, source: Source) -> None:
    """Notes the uses below a node that belongs to the module."""
    words: list[str] = []
    line = 0
    after_separator = False
    for item, for_tests in items(parent):
        if item.type in WORDS and (after_separator or not words):
            line = line if words else item.start_point.row + 1
            words.append(text(item))
            after_separator = False
            continue
        if item.type == "::" and words:
            after_separator = True
            continue
        note(words, line, module, file, source)
        words, after_separator = [], False
        if for_tests or item.type in SILENT:
            continue
        if item.type in WORDS:
            words, line = [text(item)], item.start_point.row + 1
        elif item.type == "mod_item":
            body = item.child_by_field_name("body")
            if body is not None:
                read_items(body, child_module(item, module), file, source)
        elif item.type == "use_declaration":
            read_use(item, module, file, source)
        elif item.type in {"scoped_identifier", "scoped_type_identifier"}:
            read_path(item, module, file, source)
        else:
            read_items(item, module, file, source)
    note(words, line, module, file, source)


def read_path(node: Node, module: Module, file: Path, source: Source) -> None:
    """Notes the path that stands for itself in code, and what its generic arguments name."""
    words: list[str] = []
    inner: Node | None = node
    while inner is not None and inner.type in {"scoped_identifier", "scoped_type_identifier"}:
        name = inner.child_by_field_name("name")
        assert name is not None, "the grammar names the end of every path"
        words.insert(0, text(name))
        inner = inner.child_by_field_name("path")
    if inner is not None and inner.type in WORDS:
        note([text(inner), *words], node.start_point.row + 1, module, file, source)
    elif inner is not None:
        read_items(inner, module, file, source)


def read_use(declaration: Node, module: Module, file: Path, source: Source) -> None:
    """Notes each name of a `use` declaration, and under which name the module passes it on."""
    argument = declaration.child_by_field_name("argument")
    assert argument is not None, "the grammar gives every use its argument"
    for words, alias, line in leaves(argument, []):
        path = full_path(words, module, source)
        if path is None:
            continue
        source.uses.append(Use(module, path, file, line))
        source.imports[module, alias] = path


def leaves(node: Node, before: list[str]) -> Iterator[tuple[list[str], str, int]]:
    """The paths of a tree of imports, each with the name that it gets and its line."""
    line = node.start_point.row + 1
    if node.type == "use_list":
        for child in node.named_children:
            yield from leaves(child, before)
    elif node.type == "scoped_use_list":
        path = node.child_by_field_name("path")
        head = text(path).split("::") if path is not None else []
        inner = node.child_by_field_name("list")
        assert inner is not None, "the grammar gives the list its node"
        yield from leaves(inner, before + head)
    elif node.type == "use_as_clause":
        path, alias = node.child_by_field_name("path"), node.child_by_field_name("alias")
        assert path is not None and alias is not None, "the grammar names both"
        yield before + text(path).split("::"), text(alias), line
    elif node.type == "use_wildcard":
        yield before + text(node).removesuffix("*").removesuffix("::").split("::"), "*", line
    elif node.type not in {"line_comment", "block_comment"}:
        words = text(node).split("::")
        full = before if words == ["self"] and before else before + words
        yield full, full[-1], line


def note(words: list[str], line: int, module: Module, file: Path, source: Source) -> None:
    """Notes a path, if it names something of this crate."""
    path = full_path(words, module, source) if len(words) > 1 else None
    if path is not None:
        source.uses.append(Use(module, path, file, line))


def full_path(words: list[str], module: Module, source: Source) -> tuple[str, ...] | None:
    """The path from the crate's root, or None when it leads out of the crate or to a local name."""
    if not words:
        return None
    first, rest = words[0], words[1:]
    if first == "crate":
        return tuple(rest)
    if first == "self":
        return module + tuple(rest)
    if first == "super":
        up = module[:-1]
        while rest and rest[0] == "super":
            up, rest = up[:-1], rest[1:]
        return up + tuple(rest)
    return (*module, *words) if (*module, first) in source.modules else None
