"""A table of wrong inputs of every experiment: each is told with its value and what would be right, before anything is
compiled and before a run folder is made. The tests of single experiments have more that need files of their own."""

import pytest
from PIL import Image

from experiments import (
    black_box,
    compare,
    darts,
    enas,
    make_digits201,
    one_shot,
    predict,
    predictor,
    prepare_cifar10,
    retrain,
    tabular,
)
from jaxnas import command

PROGRAMS = {
    "darts": (darts.main, darts.Config, darts.PRESETS),
    "enas": (enas.main, enas.Config, enas.PRESETS),
    "one_shot": (one_shot.main, one_shot.Config, one_shot.PRESETS),
    "black_box": (black_box.main, black_box.Config, black_box.PRESETS),
    "retrain": (retrain.main, retrain.Config, retrain.PRESETS),
    "tabular": (tabular.main, tabular.Config, None),
    "predictor": (predictor.main, predictor.Config, None),
    "make_digits201": (make_digits201.main, make_digits201.Config, None),
    "prepare_cifar10": (prepare_cifar10.run, prepare_cifar10.Config, None),
    "predict": (predict.main, predict.Config, None),
    "compare": (compare.main, compare.Config, None),
}
TRAINING = {
    "--train.epochs 0": "train.epochs must be at least 1, got 0",
    "--train.batch-size 0": "train.batch_size must be at least 1, got 0",
    "--train.batch-size 5000": "train.batch_size 5000 is larger than the training part, which has 1077 examples",
    "--train.channels 0": "train.channels must be at least 1, got 0",
    "--train.cells -1": "train.cells must be at least 1, got -1",
    "--train.learning-rate -1": "train.learning_rate must be positive, got -1.0",
    "--train.learning-rate inf": "train.learning_rate must be positive, got inf",
    "--train.learning-rate nan": "train.learning_rate must be positive, got nan",
    "--train.momentum 1": "train.momentum must be at least 0 and less than 1, got 1.0",
    "--train.weight-decay -1": "train.weight_decay must be 0 or positive, got -1.0",
    "--train.clip 0": "train.clip must be positive, got 0.0",
    "--train.label-smoothing 2": "train.label_smoothing must be at least 0 and less than 1, got 2.0",
    "--train.drop-path 1": "train.drop_path must be at least 0 and less than 1, got 1.0",
    "--train.auxiliary-weight -1": "train.auxiliary_weight must be 0 or positive, got -1.0",
    "--train.hold-out 1": "train.hold_out must be at least 0 and less than 1, got 1.0",
    "--random-baselines -1": "random_baselines must be 0 or positive, got -1",
    "--seed -1": "seed must be 0 to 4294967295, what NumPy takes, got -1",
    "--dataset cifra10": "cifra10",
    "--dataset folder:ABSENT": "ABSENT is no folder: give the folder that holds one folder of images for each class",
    "--data-dir ABSENT": "'digits' does not use it: leave out ABSENT",
    "--label fine": "label is for data sets of TFDS with several, 'digits' has one: leave out fine",
    "--size 5000": "size must be 1 to 4096 pixels, got 5000x5000",
    "--size 8": "digits are 8x8 and cannot be resized: leave out size 8x8",
    "--size 0": "Error parsing --size: a size is a number of pixels or HEIGHTxWIDTH",
    "--size 8x": "Error parsing --size",
    "--dataset folder:DOTS": "images of at least 4×4, got (1, 1, 3); the smallest images that go are 4×4: --size 4",
    "--preset huge": "there is no preset 'huge': --preset is one of tiny, small, paper",
    "--train.epochs ten": "Error parsing --train.epochs",
    "--nonsense 3": "--nonsense",
    "--workdir FILE/run": "cannot make the folder FILE/run: Not a directory; choose a folder that can be written",
    "--workdir OTHER": "OTHER holds 'thesis.tex' but no run (no config.json); choose an empty or a new folder",
}
"""Of every experiment that trains what it found."""
SEEDS = {
    "--seeds 0": "seeds must be at least 1, got 0",
    "--seeds 2 --train.hold-out 0": "with several seeds the best is chosen by validation: train.hold_out must not be 0",
    "--seeds 2 --seed 4294967295": "2 seeds from 4294967295 on go beyond 4294967295: give a smaller seed",
    "--seeds 3 --devices.count 2": "3 seeds cannot be divided over 2 devices",
}
"""Of every search that does several seeds at once."""
CASES = {
    "darts": {
        **TRAINING,
        **SEEDS,
        "--seeds 2 --search.prune 3": "search.prune is for one search at a time: leave it out, or seeds",
        "--search.epochs 0": "search.epochs must be at least 1, got 0",
        "--search.batch-size 0": "search.batch_size must be at least 1, got 0",
        "--search.batch-size 5000": "search.batch_size 5000 is larger than its part, which has 1077 examples",
        "--search.channels 0": "channels must be at least 1, got 0",
        "--search.learning-rate -1": "search.learning_rate must be positive, got -1.0",
        "--search.last-learning-rate -1": "search.last_learning_rate must be 0 or positive, got -1.0",
        "--search.momentum -1": "search.momentum must be at least 0 and less than 1, got -1.0",
        "--search.weight-decay nan": "search.weight_decay must be 0 or positive, got nan",
        "--search.clip -1": "search.clip must be positive, got -1.0",
        "--search.alpha-learning-rate 0": "search.alpha_learning_rate must be positive, got 0.0",
        "--search.alpha-weight-decay -1": "search.alpha_weight_decay must be 0 or positive, got -1.0",
        "--search.warmup-epochs -1": "search.warmup_epochs must be 0 or positive, got -1",
        "--search.warmup-epochs 12": "search.warmup_epochs 12 leaves the architecture none of the 12 search.epochs",
        "--search.limit 1": "search.limit must be 0 for all, or at least 2, got 1",
        "--search.early-stop": "give search.watch.eigenvalue_every of at least 1, not 0",
        "--search.early-stop --search.watch.eigenvalue-every 1": "it needs 17 eigenvalues, and 12 epochs",
        "--search.early-stop --search.watch.eigenvalue-every 1 --search.watch.first 1 --search.watch.ratio 2": (
            "search.watch.ratio must be above 0"
        ),
        "--search.early-stop --search.watch.eigenvalue-every 1 --search.watch.lag 0": (
            "search.watch.lag must be at least 1, got 0"
        ),
        "--search.watch.every -1": "search.watch.every must be 0 or positive, got -1",
        "--search.watch.batches 0": "search.watch.batches must be at least 1, got 0",
        "--search.watch.products 0": "search.watch.products must be at least 1, got 0",
        "--search.prune 9 3": "search.prune must fall from under 8 to 2 at least, got [9, 3]",
        "--search.order third": "invalid choice 'third'",
        "--train.auxiliary": "has 2×2 there; use larger images or auxiliary=False; the smallest images that go",
    },
    "enas": {
        **TRAINING,
        **SEEDS,
        "--space foo": "there is no space 'foo'; there are darts, nasbench201",
        "--search.epochs 0": "search.epochs must be at least 1, got 0",
        "--search.period 0": "search.period must be at least 1, got 0",
        "--search.batch-size 0": "search.batch_size must be at least 1, got 0",
        "--search.batch-size 9999": "search.batch_size 9999 is larger than its part, which has 1077 examples",
        "--search.valid-part 1": "search.valid_part must be between 0 and 1, got 1.0",
        "--search.learning-rate -1": "search.learning_rate must be positive, got -1.0",
        "--search.momentum 3": "search.momentum must be at least 0 and less than 1, got 3.0",
        "--search.clip 0": "search.clip must be positive, got 0.0",
        "--search.candidates 0": "search.candidates must be at least 1, got 0",
        "--search.limit -1": "search.limit must be 0 for all, or at least 2, got -1",
        "--search.controller.batch-size 9999": (
            "batches of 9999 of phase 'controller' are larger than the part 'valid', which has 360 examples"
        ),
        "--search.controller.batches 0": "search.controller.batches must be at least 1, got 0",
        "--search.controller.batches 7": (
            "search.controller.batch_size 120 is no multiple of search.controller.batches 7"
        ),
        "--search.controller.steps 0": "search.controller.steps must be at least 1, got 0",
        "--search.controller.samples 0": "search.controller.samples must be at least 1, got 0",
        "--search.controller.learning-rate -1": "search.controller.learning_rate must be positive, got -1.0",
        "--search.controller.hidden 0": "search.controller.hidden must be at least 1, got 0",
        "--search.controller.temperature 0": "temperature must be positive, got 0.0",
        "--search.controller.tanh-constant 0": "tanh_constant must be positive, got 0.0",
        "--search.controller.ema 2": "ema must be at least 0 and less than 1, got 2.0",
        "--search.controller.entropy-weight -1": "search.controller.entropy_weight must be 0 or positive, got -1.0",
        "--search.controller.skip-target 2": "skip_target must be between 0 and 1, got 2.0",
        "--search.controller.prior nan": "search.controller.prior must be -1,000,000 to 1,000,000, got nan",
    },
    "one_shot": {
        **TRAINING,
        **SEEDS,
        "--seeds 2 --search.prune 3": "search.prune is for one search at a time: leave it out, or seeds",
        "--space foo": "there is no space 'foo'; there are darts, nasbench201",
        "--search.epochs 0": "search.epochs must be at least 1, got 0",
        "--search.batch-size 0": "search.batch_size must be at least 1, got 0",
        "--search.batch-size 9999": "search.batch_size 9999 is larger than its part, which has 1077 examples",
        "--search.learning-rate -1": "search.learning_rate must be positive, got -1.0",
        "--search.momentum 2": "search.momentum must be at least 0 and less than 1, got 2.0",
        "--search.clip 0": "search.clip must be positive, got 0.0",
        "--search.valid-part 0": "search.valid_part must be between 0 and 1, got 0.0",
        "--search.limit -1": "search.limit must be 0 for all, or at least 2, got -1",
        "--search.sampling best": "invalid choice 'best'",
        "--search.scoring.evaluations 3": "search.scoring.evaluations must be at least 16, got 3",
        "--search.scoring.population 0": "search.scoring.population must be at least 1, got 0",
        "--search.scoring.batches 99": "search.scoring.batches 99 of 360 images are more than the 1077",
        "--search.prune 3 4": "search.prune must fall to 2 at least",
        "--max-latency-ms 0": "max_latency_ms must be positive, got 0.0",
        "--max-params 0": "max_params must be positive, got 0",
        "--max-macs 10": "no architecture meets max_macs 10, where the smallest possible is",
        "--table ABSENT": "there is no file 'ABSENT' and no benchmark of that name",
        "--search.comparison.running-paths 0": "search.comparison.running_paths must be at least 1, got 0",
    },
    "black_box": {
        **TRAINING,
        # Its seeds go one after another, over any number of devices.
        **{flags: told for flags, told in SEEDS.items() if "--devices.count" not in flags},
        "--search.evaluations 0": "search.evaluations must be at least 1, got 0",
        "--search.epochs 0": "search.epochs must be at least 1, got 0",
        "--search.sampler magic": "invalid choice 'magic'",
        "--max-macs 10": "no architecture meets max_macs 10, where the smallest possible is",
    },
    "retrain": {
        **TRAINING,
        "--genotype DARTS_V9": "unknown genotype 'DARTS_V9'",
        "--genotype ABSENT/genotype.json": (
            "there is no file ABSENT/genotype.json: give the folder of a run, its genotype.json"
        ),
        "--genotype Genotype(normal=[])": "the genotype has no 'normal_concat'",
    },
    "tabular": {
        "--methods foo": "there is no method 'foo'; there are random, evolution",
        "--table ABSENT": "there is no file 'ABSENT' and no benchmark of that name",
        "--encoding a,b": "--encoding is for files",
        "--seeds 0": "seeds must be at least 1, got 0",
        "--seed -1": "seed must be 0 to 4294967295, what NumPy takes, got -1",
        "--learning-rate -1": "learning_rate must be positive, got -1.0",
        "--population 0": "population must be at least 1, got 0",
        "--sample-size 99": "99",
        "--ema 2": "ema",
        "--eta 1 --methods random,hyperband": "eta",
        "--methods random,halving --search-metric valid@8": "halving needs a search metric with several fidelities",
        "--time-budget 0.0001": "time_budget 0.0001 is less than the cheapest architecture's",
        "--search-metric speed": "there is no metric 'speed'; there are valid",
        "--front-metrics valid": "a front is of two metrics, got 'valid'",
    },
    "predictor": {
        "--methods foo": "there is no method 'foo'; there are gnn_gp",
        "--sizes a,b": "sizes are numbers with commas between them, got 'a,b'",
        "--sizes 2": "sizes must be at least 4 and at most half",
        "--draws 0": "draws must be at least 1, got 0",
        "--seed -1": "seed must be 0 to 4294967295, what NumPy takes, got -1",
        "--signals speed": "there is no metric 'speed'",
    },
    "make_digits201": {
        "--epochs 0": "epochs must be at least 1, got 0",
        "--fidelities 1 2": "fidelities must be ascending epochs that end with 8, got (1, 2)",
        "--batch-size 5000": "batch_size must be at most 1077, the images there are, got 5000",
        "--channels 0": "channels must be at least 1, got 0",
        "--learning-rate -1": "learning_rate must be positive, got -1.0",
        "--weight-decay -1": "weight_decay must be 0 or positive, got -1.0",
        "--noise -1": "noise must be 0 or positive, got -1.0",
        "--shift -1": "shift must be 0 or positive, got -1",
        "--together 0": "together must be at least 1, got 0",
        "--timed 1": "at least 3 timed runs, got 1",
        "--seed -1": "seed must be 0 to 4294967295, what NumPy takes, got -1",
        "--start ABSENT": "there is no file ABSENT: leave out --start",
    },
    "prepare_cifar10": {
        "--data-dir ABSENT --archive ABSENT": "there is no archive ABSENT",
        "--data-dir ABSENT --allow-other-checksum": "--allow-other-checksum is for a local archive: give --archive",
        "--data-dir ABSENT --archive FILE": "remove it and get it again",
        "--data-dir ABSENT --archive FILE --allow-other-checksum": "FILE is cut short, damaged or no .tar.gz archive",
    },
    "predict": {
        "--run OTHER": "no image given: name at least one file, folder or pattern",
        "--run OTHER FILE": "OTHER holds no trained network",
    },
    "compare": {
        "": "no run given: name the folders of at least one finished run",
        "ABSENT": "there is no folder ABSENT: give the folder of a finished run",
        "OTHER": "OTHER is no run (no config.json)",
    },
}


@pytest.mark.parametrize("program", sorted(CASES))
def test_wrong_input_is_told_with_its_value_before_anything_is_done(program, tmp_path, capsys):
    run, config, presets = PROGRAMS[program]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for name in "ab":
        (tmp_path / "dots" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (1, 1)).save(tmp_path / "dots" / name / f"{number}.png")
    places = {name: str(tmp_path / name.lower()) for name in ("OTHER", "FILE", "ABSENT", "DOTS")}

    def placed(text):
        for name, path in places.items():
            text = text.replace(name, path)
        return text

    wrong = {}
    for flags, expected in CASES[program].items():
        arguments = placed(flags).split()
        if "workdir" in config.__dataclass_fields__ and "--workdir" not in arguments:
            arguments += ["--workdir", str(tmp_path / "run")]
        if program == "retrain" and "--genotype" not in arguments:
            arguments += ["--genotype", "DARTS_V2"]
        if program in ("one_shot", "black_box") and "--dataset" not in arguments:
            arguments += ["--dataset", "digits"]  # as of the others
        with pytest.raises(SystemExit) as stopped:
            command.main(run, config, arguments, presets)
        error = capsys.readouterr().err
        right = stopped.value.code == 2 and placed(expected) in " ".join(error.split()) and "Traceback" not in error
        if not right or (tmp_path / "run").exists():
            wrong[flags] = f"{stopped.value.code}: {error}"
    assert not wrong, "\n".join(f"{flags}: {told}" for flags, told in wrong.items())
