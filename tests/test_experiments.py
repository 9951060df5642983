"""The command line: wrong input is one line and exit code 2, before anything is compiled."""

import pytest

from experiments import cli, darts, predict, retrain

WRONG = {
    "unknown data set": (darts, ["--dataset", "cifra10"], "cifra10"),
    "data not there": (darts, ["--dataset", "cifar10", "--data-dir", "EMPTY"], "experiments.prepare_cifar10"),
    "no channels": (darts, ["--search.channels", "0"], "channels must be at least 1, got 0"),
    "batch larger than the split": (darts, ["--search.batch-size", "5000"], "5000"),
    "training batch larger than the split": (darts, ["--train.batch-size", "5000"], "5000"),
    "no room for the auxiliary head": (darts, ["--train.auxiliary"], "8×8"),
    "not a genotype": (retrain, ["--genotype", "DARTS_V9"], "DARTS_V9"),
    "genotype file not there": (retrain, ["--genotype", "EMPTY/genotype.json"], "genotype.json"),
    "folder of something else": (darts, ["--workdir", "OTHER"], "choose an empty or a new folder"),
    "no run": (predict, ["--run", "EMPTY", "image.png"], "holds no trained network"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_wrong_input_is_one_line_and_exit_code_two(case, tmp_path, capsys):
    module, arguments, expected = WRONG[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    places = {"EMPTY": str(tmp_path / "empty"), "OTHER": str(tmp_path / "other")}
    arguments = [_placed(argument, places) for argument in arguments]
    if module is not predict and "--workdir" not in arguments:
        arguments = [*arguments, "--workdir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stopped:
        cli.main(module.main, module.Config, arguments, getattr(module, "PRESETS", None))
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.count("\n") == 1
    assert expected in error


def _placed(argument, places):
    for name, path in places.items():
        argument = argument.replace(name, path)
    return argument
