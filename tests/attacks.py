"""How many attacks stand behind each promise of SECURITY.md: cases of the tests that try them, counted in their code.

    python tests/attacks.py     # writes the table of SECURITY.md anew

A test counts once for each of its parametrised cases; what one case tries in a loop (every flipped bit of a file)
counts once, so the figures are lower bounds.
"""

from __future__ import annotations

import ast
import math
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "SECURITY.md"
START, END = "<!-- attacks: python tests/attacks.py -->\n", "<!-- end -->\n"
# promise -> test file -> the tests in it that attack
PROMISES: dict[str, dict[str, str]] = {
    "Nothing reads a pickle; weights are loaded with `weights_only=True` and checked by sha256 first": {
        "test_weights": "unreadable_or_executable saved_pickle truncated_state failed_download code_in_the_cache "
        "checkpoint_is_verified not_finite pipe_or_device",
        "test_hostile_files": "header_of_weights deflated_weights",
    },
    "A checkpoint is refused in one line when anything in it changed or cannot be": {
        "test_checkpoint": "every_flipped_bit every_single_byte truncated_and_missing file_of_another_epoch "
        "newer_format do_not_fit strict_json no_pickle",
        "test_manifest": "edited_manifest no_manifest not_finite pipe_or_a_device wrong_fact",
    },
    "A killed or interrupted run resumes to the same bits, and never leaves an unreadable checkpoint": {
        "test_resume": "killed_runs kill_campaign two_kills refuses_another refuses_other not_overwritten "
        "last_whole_epoch where_its_run_was_killed",
        "test_checkpoint": "killed_while_saving",
    },
    "A prepared set that changed is noticed": {
        "test_integrity": "every_flipped_bit damaged_prepared swapped_files hostile_set bomb sizes_that_lie pipes_and "
        "killed_run_left full_disk cannot_be_written",
    },
    "An image is decoded by its content from a closed list of formats, within limits of pixels and memory": {
        "test_images": "faults_are_named pixel_bomb no_damage",
        "test_pixels": "told_by_content a_pipe negative_and_huge without_a_meaning ringing",
        "test_dicom": "faults_are_named deflated_bomb stream_of_another slope_that_is_none",
    },
    "A whole slide and what is drawn on it are read within limits, or refused by name": {
        "test_hostile_files": "drawing_that no_drawing heavy_drawing class_of_a_drawing more_classes "
        "lying_sizes that_is_none",
    },
    "A store of features that changed is computed anew": {
        "test_hostile_files": "store_that_changed part_of_a_store",
    },
    "A table is parsed within limits, or refused by its row": {
        "test_hostile_files": "review_that",
        "test_tables": "cannot_be_classes encodings a_pipe outside_the_folder contradict fits_two_files",
        "test_readers_metadata": "each_fault another_encoding any_csv every_row_is_bad",
    },
    "A folder is understood, or refused by name": {
        "test_layouts": "may_mean_two_things cannot_be_read link_to_nothing never_replace options_that_do_not_fit",
        "test_joined": "cannot_be_parts transparency pages",
    },
    "An archive writes nowhere but in its folder": {
        "test_fetch": "hostile_archive lies_about wrong_checksum wrong_size more_bytes never_delivers over_budget",
    },
    "Only our own folders and files are replaced; an output is never an input": {
        "test_folders": "not_ours came_in_the_way somebody_else crash_left",
        "test_predict_outputs": "folder_of_the_images link_to_an_image only_on_request never_replaces formula "
        "no_utf8 file_of_its_own cells_and_terminal",
    },
    "A report runs no script and asks nothing of the network": {
        "test_reports_browser": "pages_are_silent hostile_string hostile_notebooks hostile_runs hostile_names",
        "test_exporter": "hostile_html any_text any_markdown links_lead dress_up cannot_claim",
        "test_hostile": "open_no_socket nothing_tells tells_nobody",
    },
    "A notebook shows data as text, also in JupyterLab": {
        "test_hostile": "holds_nothing_active very_characters run_nothing",
        "test_hostile_notebooks": "no_output",
        "test_hostile_lab": "trusted_outputs",
    },
    "A parameter is a value of its type, never code": {
        "test_parameters": "wrong_parameters cannot_work derived_value literals",
        "test_cli": "wrong_usage wrong_parameter_starts",
        "test_hostile_files": "name_of_an_encoder",
    },
    "The status of a run is true": {
        "test_runner": "true_status never_ran interruption second_interruption killed_runner full_disk vanished "
        "without_finish time_limit why_a_kernel steer_the_terminal",
        "test_predict_killed": "killed",
    },
    "No name of a patient leaves a DICOM file unasked": {
        "test_dicom": "without_telling_who no_name_reaches burned_in",
        "test_integrity": "remember_no_names",
    },
}


def cases(file: Path) -> dict[str, int]:
    """The tests of a file, and how many parametrised cases each has."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    values = {
        target.id: node.value
        for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target]) if isinstance(target, ast.Name)
    }  # fmt: skip
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            given = [mark.args[1] for mark in node.decorator_list if isinstance(mark, ast.Call) and len(mark.args) > 1]
            found[node.name] = math.prod(_length(values.get(getattr(each, "id", ""), each)) for each in given)
    return found


def _length(node: ast.expr) -> int:
    """Length of a literal list or mapping; 1 for what is computed."""
    if isinstance(node, ast.Dict):
        return len(node.keys)
    return len(node.elts) if isinstance(node, (ast.List, ast.Tuple, ast.Set)) else 1


def attacks() -> dict[str, tuple[int, list[str]]]:
    """Number of attacks on each promise, and the files that hold them.

    Raises:
        LookupError: A pattern fits no test.
    """
    counted = {}
    for promise, files in PROMISES.items():
        number = 0
        for name, patterns in files.items():
            known = cases(HERE / f"{name}.py")
            chosen = {test for pattern in patterns.split() for test in known if pattern in test}
            for pattern in patterns.split():
                if not any(pattern in test for test in known):
                    raise LookupError(f"{name}: no test has {pattern!r} in its name")
            number += sum(known[test] for test in chosen)
        counted[promise] = number, [f"tests/{name}.py" for name in files]
    return counted


def table() -> str:
    """The table of SECURITY.md."""
    found = attacks()
    lines = ["| promise | attacks | tests |", "|---|---|---|"]
    lines += [f"| {promise} | {n} | {', '.join(f'`{f}`' for f in files)} |" for promise, (n, files) in found.items()]
    total = sum(number for number, _ in found.values())
    return "\n".join(
        [*lines, f"| together | {total} | one that gets through fails `make test` or `make test-slow` |", ""]
    )


def main() -> None:
    """Put the table into SECURITY.md."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(before + START + table() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
