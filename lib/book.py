"""How the book is made: execute each chapter, compare what it recorded, collect, check the pages.

``python -m lib.book COMMAND``; the Makefile calls these and decides what has to be done again.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import os
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Iterator

from IPython.core.inputtransformer2 import TransformerManager

from lib import ROOT
from lib.errors import BookError, run_command
from lib.files import atomic_write, read_json, write_json, write_json_if_changed
from lib.processor import processor_name
from lib.results import (
    EXPECTED,
    FULL_RUNS,
    Expectation,
    Result,
    check_profile,
    collected,
    compare,
    format_value,
    read_expected,
    results_of,
)

BUILD = ROOT / "_build"
SETTINGS = BUILD / "settings.json"
RESULTS = BUILD / "results.json"
PAGES = "pages"  # in the place of a chapter, of the figures that lib.pages adds to the results
START = "start"  # the start page shows the others' results, so it is executed last and records none
VERSIONS = ("torch", "numpy", "onnxruntime", "openvino")  # named in the record of a run
KEY_RESULTS = (
    "data.corpus",
    "model.*.int8_mb",
    "model.*.macs_per_character",
    "model.*.b4096_bound",
    "model.pocket.kv_cache_max_abs_err",
    "baseline.*.bpc",
    "gate.*",
    "ptq.best.*.ppl_increase_pct",
    "prune.*.50.int8.*.ppl_increase_pct",
    "qat.w4a8.*.ppl_increase_pct",
    "export.faults_caught",
    "vitis.gelu_replacement.ppl_increase_pct",
    "vitis.int8.trained.*.ppl_increase_pct",
    "vitis.pocket.crossings_per_token",
    "host.best_over_torch",
    "host.c_over_torch_kv",
    "host.c_over_ort_fp32",
    "acap.qat.*.eqvit_minus_fp32_pct",
    "acap.qat.*.w4a8_minus_fp32_pct",
    "compare.claims.*",
    "compare.break_even.core_lanes",
)


def executed_chapters() -> list[Path]:
    """List the executed chapters whose source is still there; the start page is not one of them."""
    executed = sorted((BUILD / "executed" / "chapters").glob("*.ipynb"))
    return [path for path in executed if path.stem != START and (ROOT / "chapters" / path.name).exists()]


# ---- Settings: what all executions depend on besides their sources. ----


def write_settings(profile: str, source: str) -> None:
    """Prepare the data, and note profile and texts in a file that changes only when they do."""
    from lib.corpus import load_all

    check_profile(profile)
    corpora = load_all(source)
    texts = {name: {s: split["sha256"] for s, split in c.meta["splits"].items()} for name, c in corpora.items()}
    settings = {"profile": profile, "corpus": next(iter(corpora)), "source": source, "texts": texts}
    settings["images"] = os.environ.get("CIFAR10_DIR")
    write_json_if_changed(SETTINGS, settings)


def settings() -> dict[str, Any]:
    return read_json(SETTINGS, "the settings of the last run (make book writes them):")


# ---- Dependencies: what a chapter imports, and what its metadata says it needs. ----


def dependencies(notebook: Path) -> list[str]:
    """List the files, relative to the root, that a chapter's execution depends on, itself included."""
    content = read_json(notebook, "the chapter")
    code = [c for c in content["cells"] if c["cell_type"] == "code"]
    files: set[Path] = set()
    for cell in code:
        try:
            _follow(TransformerManager().transform_cell("".join(cell["source"])), files)
        except SyntaxError as error:
            raise BookError(f"{notebook.name} has a cell that is not Python ({error}); correct it") from None
    needs = content["metadata"].get("book", {}).get("needs", [])
    for name in needs:
        if not (ROOT / name).exists():
            raise BookError(f"{notebook.name} says it needs {name}, which does not exist; restore it")
    return [
        str(notebook.relative_to(ROOT)),
        *needs,
        *(str(file.relative_to(ROOT)) for file in sorted(files)),
        "lib/__init__.py",
    ]


def _follow(code: str, found: set[Path]) -> None:
    """Add to ``found`` the files of lib that ``code`` imports, and those that they import in turn.

    Of a package every file counts, since it may import its modules by their names (``lib.ptq`` does).
    """
    for node in ast.walk(ast.parse(code)):
        for module in _imported(node):
            path = ROOT / module.replace(".", "/")
            files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
            for file in files if module.startswith("lib.") else ():
                if file not in found and file.exists():
                    found.add(file)
                    _follow(file.read_text(), found)


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def write_dependencies(notebook: Path, rule: Path) -> None:
    """Write a chapter's dependencies as make rules.

    An empty rule for each file lets make go on when one is deleted, and so notice it; the last line
    adds the chapter's committed full runs, which its page shows.
    """
    files = " ".join(dependencies(notebook.resolve()))
    target = f"_build/executed/chapters/{notebook.name}"
    full_runs = f"$(wildcard data/full/*/{notebook.stem}.json)"
    with atomic_write(rule) as file:
        file.write(f"{target} {rule}: {files}\n{files}:\n{target}: {full_runs}\n".encode())


# ---- Execution. ----


def execute(notebook: Path, output: Path, profile: str, source: str) -> None:
    """Execute a chapter with papermill; ``output`` appears only if every cell ran.

    Raises BookError naming the cell and its error otherwise, and leaves the notebook, as far as it
    got, under ``_build/failed``.
    """
    import nbformat  # imported here: slow, and only this command needs them
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    output.unlink(missing_ok=True)  # a chapter that fails now has no execution, old or new
    failed = BUILD / "failed" / notebook.name
    failed.parent.mkdir(parents=True, exist_ok=True)
    parameters = {"profile": check_profile(profile), "source": source}
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # PyTorch's threads must not spin where a core has other work
    quiet = ["--IPKernelApp.log_level=40"]
    try:
        node = papermill.execute_notebook(
            str(notebook), str(failed), parameters, kernel_name="python3", cwd=str(ROOT), extra_arguments=quiet
        )
    except PapermillExecutionError as error:
        raise BookError(
            f"{notebook.name} failed in code cell {error.exec_count}: {error.ename}: {error.evalue}; see {failed}"
        ) from None
    except DeadKernelError:
        raise BookError(f"{notebook.name}: its kernel died, perhaps for want of memory; see {failed}") from None
    for cell in node.cells:
        if "injected-parameters" in cell.metadata.get("tags", []) and profile == "quick":
            cell.metadata.tags.append("remove-cell")  # the page shows the chapter's own parameters: the same
    node.metadata.setdefault("book", {})["ran"] = {"machine": processor_name(), "versions": versions()}
    with atomic_write(output) as file:
        file.write((nbformat.writes(node) + "\n").encode())
    failed.unlink()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide most figures."""
    return {"Python": platform.python_version()} | {name: importlib.metadata.version(name) for name in VERSIONS}


# ---- Comparison and collection. ----


def chapter_results(notebook: Path) -> dict[str, Result]:
    """Return what a chapter recorded, and how long it took."""
    seconds = read_json(notebook, "the executed chapter")["metadata"]["papermill"]["duration"]
    timing = Result(f"book.seconds.{notebook.stem}", round(seconds, 1), "s", "measured")
    return results_of(notebook) | {timing.name: timing}


def expected_path(chapter: str) -> Path:
    return EXPECTED / settings()["corpus"] / settings()["profile"] / f"{chapter}.json"


def expectations(chapter: str) -> dict[str, Expectation]:
    """Read what is expected of a chapter on the corpus and profile of the last run."""
    if not expected_path(chapter).exists():
        corpus, profile = settings()["corpus"], settings()["profile"]
        raise BookError(f"nothing is expected of {chapter} on {corpus}, {profile}; {accept()} records its values")
    return read_expected(expected_path(chapter))


def accept() -> str:
    """Return the command that accepts the values of the last run, whatever its profile and source."""
    return f"make expect PROFILE={settings()['profile']} SOURCE={settings()['source']}"


def compare_all() -> None:
    """Compare every executed chapter with its expectations; BookError if any figure is not as expected."""
    problems = []
    for notebook in executed_chapters():
        found = compare(chapter_results(notebook), expectations(notebook.stem))
        problems += [f"{notebook.stem}: {problem}" for problem in found]
    for problem in problems:
        print(f"  {problem}")
    if problems:
        raise BookError(f"{len(problems)} results are not as expected (above); mend the cause, or {accept()}")
    run = f"{settings()['corpus']}, {settings()['profile']}"
    print(f"{len(executed_chapters())} chapters reproduce what data/expected says ({run})")


def collect() -> None:
    """Write ``_build/results.json``: every figure of every chapter, by name, and the last survey's of the pages."""
    figures: dict[str, dict[str, Any]] = {}
    if RESULTS.exists():
        figures = {n: f for n, f in read_json(RESULTS, "the collected results").items() if f["chapter"] == PAGES}
    for notebook in executed_chapters():
        for name, result in chapter_results(notebook).items():
            if name in figures:
                raise BookError(f"{name} is recorded by {figures[name]['chapter']} and by {notebook.stem}; rename one")
            figures[name] = result.plain() | {"chapter": notebook.stem}
    write_json_if_changed(RESULTS, dict(sorted(figures.items())))


def add_results(results: dict[str, Result], chapter: str) -> None:
    """Put figures into ``_build/results.json`` in the place of those that ``chapter`` had there.

    The file keeps its time: the start page, which is made from it and shows none of these, is not out of date.
    """
    old = read_json(RESULTS, "the collected results (make book collects them)")
    figures = {name: figure for name, figure in old.items() if figure["chapter"] != chapter}
    figures |= {name: result.plain() | {"chapter": chapter} for name, result in results.items()}
    times = RESULTS.stat()
    write_json(RESULTS, dict(sorted(figures.items())))
    os.utime(RESULTS, ns=(times.st_atime_ns, times.st_mtime_ns))


def refresh_expected() -> None:
    """Take the executed values over into ``data/expected``; kinds, tolerances and bounds stay.

    A name that is new becomes required, exactly for a whole number or a text and within 1 % for others,
    or informational if it is a time or a rate: look at what ``git diff`` shows before committing it.
    """
    for notebook in executed_chapters():
        path = expected_path(notebook.stem)
        old = read_expected(path) if path.exists() else {}
        actual = chapter_results(notebook)
        entries = {n: _refreshed(r, old.get(n)) for n, r in actual.items()}
        entries |= {n: e for n, e in old.items() if n not in actual and (e.kind == "optional" or not e.holds_here)}
        write_json(path, {n: {k: v for k, v in asdict(e).items() if v is not None} for n, e in sorted(entries.items())})
        print(f"wrote {os.path.relpath(path)}")


def _refreshed(result: Result, old: Expectation | None) -> Expectation:
    if old is None:
        timed = result.unit == "s" or result.unit.endswith("/s")
        tolerance = 0.01 if isinstance(result.value, float) else 0.0
        old = Expectation("informational" if timed else "required", result.value, tolerance)
    if old.kind == "informational":
        return Expectation("informational")
    if not old.holds_here:
        return old  # this machine's figure is another machine's error
    value = None if old.value is None else result.value  # an entry that has only bounds keeps only bounds
    return Expectation(old.kind, value, old.tolerance, old.min, old.max, result.text, old.vnni)


def keep_full_run() -> None:
    """Commit-ready record of a run of the full profile: results, and the run's own date, hardware and versions."""
    if settings()["profile"] != "full":
        raise BookError("the last run was not of the full profile; run make book PROFILE=full first")
    for notebook in executed_chapters():
        results, metadata = chapter_results(notebook), read_json(notebook, "the executed chapter")["metadata"]
        run = {
            "date": metadata["papermill"]["end_time"][:10],
            "hardware": metadata["book"]["ran"]["machine"],
            "versions": metadata["book"]["ran"]["versions"],
            "results": {name: result.plain() for name, result in results.items()},
        }
        write_json(FULL_RUNS / settings()["corpus"] / f"{notebook.stem}.json", run)


# ---- The rendered book. ----


def pages_of_contents() -> list[str]:
    """List the pages that ``_toc.yml`` names, in its order, as in ``chapters/01_model``."""
    return re.findall(r"^\s*-?\s*(?:root|file):\s*(\S+)", (ROOT / "_toc.yml").read_text(), re.MULTILINE)


def title() -> str:
    """Return the book's title, which ``_config.yml`` alone decides."""
    return re.search(r"^title: (.+)$", (ROOT / "_config.yml").read_text(), re.MULTILINE)[1]


def check_pages() -> None:
    """Check that every page named in ``_toc.yml`` was rendered, with text in it."""
    pages = pages_of_contents()
    for page in pages:
        path = BUILD / "html" / f"{page}.html"
        article = re.search(r"<article.*?</article>", path.read_text(), re.DOTALL) if path.exists() else None
        words = len(re.sub(r"<[^>]+>", " ", article[0]).split()) if article else 0
        if words < 20:
            raise BookError(f"the page {path} is missing or empty ({words} words); see the build's messages above")
    print(f"{len(pages)} pages rendered")


def repository() -> str:
    """Return the repository's address, which ``_config.yml`` alone decides."""
    return re.search(r"^repository:\n\s+url: (\S+)", (ROOT / "_config.yml").read_text(), re.MULTILINE)[1]


def carry_address() -> None:
    """Write the repository's address into every chapter's set-up cell."""
    for notebook in sorted((ROOT / "chapters").glob("*.ipynb")):
        old = notebook.read_text()
        new = re.sub(r'REPOSITORY = \\"[^"]*\\"', lambda _: f'REPOSITORY = \\"{repository()}\\"', old)
        if new != old:
            with atomic_write(notebook) as file:
                file.write(new.encode())
            print(f"{notebook.name}: {repository()}")


def is_key_result(name: str) -> bool:
    return any(re.fullmatch(pattern.replace(".", r"\.").replace("*", ".*"), name) for pattern in KEY_RESULTS)


def summary() -> None:
    """Print the key results and where the book lies."""
    print(f"\nKey results ({settings()['corpus']} corpus, {settings()['profile']} profile):")
    for result in collected(read_json(RESULTS, "the collected results")):
        if is_key_result(result.name):
            print(f"  {result.name:40} {format_value(result):>26}  {result.provenance}")
    print(f"\nOpen {os.path.relpath(BUILD / 'html' / 'index.html')}, or run make serve.")


COMMANDS: dict[str, Callable[[], None]] = {
    "compare": compare_all,
    "collect": collect,
    "expect": refresh_expected,
    "keep": keep_full_run,
    "address": carry_address,
    "check-pages": check_pages,
    "summary": summary,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.book", description="Steps of the book's making.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        commands.add_parser(name, help=function.__doc__.splitlines()[0])
    for name in ("settings", "execute"):
        command = commands.add_parser(name)
        command.add_argument("--profile", default="quick")
        command.add_argument("--source", default="auto")
        if name == "execute":
            command.add_argument("notebook", type=Path)
            command.add_argument("output", type=Path)
    rule = commands.add_parser("dependencies")
    rule.add_argument("notebook", type=Path)
    rule.add_argument("rule", type=Path)
    given = parser.parse_args()
    if given.command == "settings":
        write_settings(given.profile, given.source)
    elif given.command == "execute":
        execute(given.notebook, given.output, given.profile, given.source)
    elif given.command == "dependencies":
        write_dependencies(given.notebook, given.rule)
    else:
        COMMANDS[given.command]()


if __name__ == "__main__":
    run_command(main)
