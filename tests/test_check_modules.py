"""The check of module directions finds what it should, shown on small crates."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

import check_modules
import rust_modules

TABLE = {"links": "", "objects": "links", "state": "links objects"}

LIB = "mod links;\nmod objects;\nmod state;\npub use state::State;\n"


class CheckModules(unittest.TestCase):
    """Each test writes a crate into a directory of its own."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name)
        for name in ("links", "objects", "state"):
            self.write(f"{name}.rs", "")
        self.write("lib.rs", LIB)

    def write(self, name: str, text: str) -> None:
        file = self.root / "src" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def problems(self, table: dict[str, str] = TABLE) -> list[str]:
        return check_modules.problems_of_crate(self.root / "src", table)

    def one_problem(self, *words: str) -> None:
        problems = self.problems()
        self.assertEqual(len(problems), 1, problems)
        for word in words:
            self.assertIn(word, problems[0])

    def test_a_downward_use_is_free(self) -> None:
        self.write("objects.rs", "use crate::links::Link;\n")
        self.write("state.rs", "use super::{links::{self, Link}, objects as things};\n")
        self.assertEqual(self.problems(), [])

    def test_an_upward_use_is_found_with_its_line(self) -> None:
        self.write("links.rs", "//! Links.\n\nuse std::fmt;\nuse crate::objects::Object;\n")
        self.one_problem("links.rs:4:", "links must not use objects")

    def test_each_name_of_a_list_counts(self) -> None:
        self.write("objects.rs", "use crate::{links::Link, state::{Input, Output as Out}};\n")
        problems = self.problems()
        self.assertEqual(
            [problem.partition("must not use ")[2] for problem in problems],
            ["state (state::Input)", "state (state::Output)"],
        )

    def test_a_path_in_code_in_a_macro_and_in_a_type_counts(self) -> None:
        for code in (
            "fn run() { crate::state::feed(1) }",
            "fn run() { super::state::feed::<u8>(1) }",
            'fn run() { log!("{}", crate::state::COUNT); }',
            "fn run(input: &crate::state::Input) {}",
            "fn run(inputs: Vec<Option<crate::state::Input>>) {}",
            "impl crate::state::Feed for Link {}",
            "fn run() { crate::state::Input { number: 1 }; }",
        ):
            with self.subTest(code):
                self.write("links.rs", code)
                self.one_problem("links.rs:1:", "links must not use state")

    def test_a_name_that_the_root_passes_on_counts_for_its_module(self) -> None:
        self.write("objects.rs", "use crate::State;\n")
        self.one_problem("objects must not use state (State)")

    def test_what_the_root_defines_is_above_all(self) -> None:
        self.write("lib.rs", LIB + "pub fn start() {}\n")
        self.write("links.rs", "fn run() { crate::start() }\n")
        self.one_problem("links must not use what lib.rs defines")

    def test_a_part_inside_a_part_may_not_use_what_is_around_it(self) -> None:
        table = {"links": "", "objects": "links", "state::tasks": "objects", "state": "links objects state::tasks"}
        self.write("state.rs", "mod tasks;\nstruct State;\nfn run() { tasks::run() }\n")
        self.write("state/tasks.rs", "use crate::objects::Object;\n")
        self.assertEqual(self.problems(table), [])
        self.write("state/tasks.rs", "use super::State;\n")
        self.assertIn("state::tasks must not use state (state::State)", self.problems(table)[0])

    def test_a_parent_uses_its_child_by_name(self) -> None:
        table = {"links": "", "objects": "links", "state": "links", "state::top": "state"}
        self.write("state.rs", "mod top;\nfn run() { top::run() }\n")
        self.write("state/top.rs", "")
        self.assertIn("state.rs:2: state must not use state::top", self.problems(table)[0])

    def test_tests_are_free(self) -> None:
        self.write("links.rs", "#[cfg(test)]\nmod tests {\n    use crate::state::State;\n}\n#[cfg(test)]\nmod model;\n")
        self.write("links/model.rs", "use crate::state::State;\n")
        self.write("objects.rs", "#[cfg(test)]\nuse crate::state::State;\n")
        self.write("objects/tests.rs", "use crate::state::State;\n")
        self.write("objects/tests/sharing.rs", "use crate::state::State;\n")
        self.assertEqual(self.problems(), [])

    def test_comments_strings_and_visibility_are_no_uses(self) -> None:
        self.write(
            "links.rs",
            '/// See [`crate::state::State`].\npub(in crate) fn run() -> &\'static str { "crate::state::X" }\n',
        )
        self.assertEqual(self.problems(), [])

    def test_what_the_table_does_not_name_or_what_is_gone_is_found(self) -> None:
        self.write("fork.rs", "")
        self.one_problem("no part of the table has the module fork")
        (self.root / "src/fork.rs").unlink()
        (self.root / "src/links.rs").unlink()
        self.one_problem("the table's part links has no module")

    def test_a_table_with_a_circle_is_found(self) -> None:
        self.assertEqual(
            self.problems({"links": "state", "objects": "", "state": "links"}),
            ["the table lets links use state, which does not stand above it"],
        )

    def test_a_file_that_no_module_declares_is_found(self) -> None:
        self.write(
            "state.rs",
            '#[cfg(test)]\nmod tests;\n#[cfg(test)]\n#[path = "state_tests.rs"]\nmod more;\nmod inner { mod deep; }\n',
        )
        self.write("objects.rs", "mod table;\n")
        declared = ("state/tests.rs", "state_tests.rs", "state/inner/deep.rs", "objects/table/mod.rs", "bin/tool.rs")
        for name in declared:
            self.write(name, "")
        self.assertEqual(rust_modules.undeclared_files(self.root / "src"), [])
        self.write("objects/left.rs", "")
        self.assertEqual(rust_modules.undeclared_files(self.root / "src"), [self.root / "src/objects/left.rs"])

    def test_a_file_that_is_too_long_is_found(self) -> None:
        self.write("short.rs", "\n" * check_modules.MAX_LINES)
        self.write("long.py", "\n" * (check_modules.MAX_LINES + 1))
        self.write("target/made.rs", "\n" * (check_modules.MAX_LINES + 1))
        problems = check_modules.too_long(check_modules.lengths(self.root))
        self.assertEqual(problems, [f"{self.root / 'src/long.py'}: 701 lines, more than 700"])


if __name__ == "__main__":
    unittest.main()
