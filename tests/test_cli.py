"""The command line as its user meets it: wrong input is one clear line and the right exit code, at once."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from medcore.cli import COMMANDS, cli, main
from medcore.cli.reports import find_notebooks, planned_runs, read_parameters, with_absolute_paths
from medcore.errors import MedcoreError


def run(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out + captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reports", "06", "-p", "epoch=3"], "did you mean 'epochs'?"),
        (["reports", "06", "-p", "epochs=three"], "epochs"),
        (["reports", "06", "-p", "epochs"], "expected NAME=VALUE"),
        (["reports", "6x"], "no notebook '6x'"),
        (["reports", "06", "--profile", "fast"], "fast"),
        (["reports", "06", "--jobs", "0"], "jobs"),
        (["reports", "06", "--data", "/no/such/images"], "'/no/such/images' is neither an existing file or folder"),
        (["reports", "06", "-p", "data=no-such-set"], "'no-such-set' is neither an existing file or folder"),
        (["reports", "06", "--data", ""], "data source is empty"),
        (["reports", "06", "-p", "data="], "data source is empty"),
        (["sweep", "06", "-p", "lr=1e-3,1e-4", "--data", ""], "data source is empty"),
        (["reports", "06", "-p", "architectures=['foo']"], "architectures"),
        (["report"], "did you mean 'reports'?"),
        (["data", "prepare"], "SOURCE"),
    ],
)
def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture, arguments: list[str], words: str) -> None:
    code, output = run(capsys, *arguments)
    assert code == 2
    assert words in output
    assert "Traceback" not in output


def test_a_wrong_parameter_starts_no_kernel_and_imports_no_torch() -> None:
    """The promise is an answer in under three seconds; torch or a kernel alone would take most of that."""
    script = (
        "import sys\nfrom medcore.cli import main\n"
        "try:\n    main(['reports', '06', '-p', 'epoch=3'])\nexcept SystemExit as end:\n    code = end.code\n"
        "heavy = {'torch', 'papermill', 'jupyter_client', 'matplotlib'} & set(sys.modules)\n"
        "print(code, sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []"
    assert "did you mean 'epochs'?" in done.stderr


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


def test_an_error_of_the_user_is_one_line(capsys: pytest.CaptureFixture) -> None:
    code, output = run(capsys, "data", "prepare", "/no/such/folder")
    assert code == 1
    assert "/no/such/folder" in output and len(output.strip().splitlines()) == 1


def test_notebooks_are_named_by_number_stem_or_path() -> None:
    by_number = find_notebooks(("6",))
    assert [path.stem for path in by_number] == ["06_patch_classification"]
    assert find_notebooks(("06_patch_classification",)) == by_number == find_notebooks((str(by_number[0]), "06"))
    assert len(find_notebooks(())) >= 2


def test_paths_become_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("images", "w.pth", "imagenet"):
        (tmp_path / name).touch()
    found = with_absolute_paths({"data": "images", "weights": "w.pth", "peer_weights": "imagenet", "epochs": 3})
    assert found == {
        "data": str(tmp_path / "images"), "weights": str(tmp_path / "w.pth"), "peer_weights": "imagenet", "epochs": 3,
    }  # fmt: skip
    assert with_absolute_paths({"data": "phantom-crc"}) == {"data": "phantom-crc"}


def test_parameters_from_file_and_pairs(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("epochs: 4\nlr: 0.01\n")
    assert read_parameters(tmp_path / "p.yaml", ("lr=1e-3",)) == {"epochs": 4, "lr": "1e-3"}
    (tmp_path / "twice.yaml").write_text("epochs: 4\nlr: 0.01\nepochs: 40\n")
    with pytest.raises(MedcoreError, match="'epochs' stands there twice"):
        read_parameters(tmp_path / "twice.yaml", ())
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(MedcoreError, match="found list"):
        read_parameters(tmp_path / "list.yaml", ())


def test_with_several_notebooks_a_parameter_goes_to_those_that_have_it() -> None:
    notebooks = find_notebooks(("01", "06"))
    planned = planned_runs(notebooks, {"epochs": "2", "seed": "3"})
    assert planned[notebooks[0]] == {"seed": 3}
    assert planned[notebooks[1]] == {"epochs": 2, "seed": 3}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_cannot_be_written_is_one_line_with_the_way_out(
    number: int, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/somewhere/set.npz")

    monkeypatch.setattr("medcore.cli.compare.command.callback", full)
    code, output = run(capsys, "compare", "a", "b")
    assert code == 1 and len(output.strip().splitlines()) == 1
    assert "/somewhere/set.npz" in output and "MEDCORE_DATA" in output and os.strerror(number) in output


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").touch()
    code, output = run(capsys, "reports", "01", "--out", str(tmp_path / "file" / "out"))
    assert code == 1 and "--out" in output and "Traceback" not in output
