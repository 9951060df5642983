"""Strict settings for every test: rank promotion raises, reused keys raise, and there are four CPU devices."""

import gc
import os
import subprocess
import sys

import jax

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
# Most tests wait for compilers and not for what they made. JAX 0.12.0.1 computes gradients of `tutorial_cnn` wrongly
# so: 0, then nan (tests/test_readme.py); with all optimizations they are right.
if jax.__version_info__ < (0, 12):
    jax.config.update("jax_disable_most_optimizations", True)

# Traces are made of millions of small objects: with Python's threshold of 700 a tenth of the time goes into garbage.
gc.set_threshold(100_000, 20, 20)

# The older emitters of loops take half as long. The library of small products, which our programs leave out as well,
# ends the process on an AMD processor without AVX-512 where a CPU computes a GPU's forms (JAX 0.10.2).
FLAGS = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_experimental_ynn_fusion_type=")


def pytest_configure(config):
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # it has the flags of the process that started it
    for flag in FLAGS:  # XLA ends a process that gives it a flag that it has not got
        flags = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
        attempt = [sys.executable, "-c", "import jax; jax.devices()"]
        if subprocess.run(attempt, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True).returncode == 0:
            os.environ["XLA_FLAGS"] = flags


# Files of few and long tests first, so that no worker waits at the end for one of them.
LONG = (
    "test_supernets", "test_reference", "test_one_shot_experiment", "test_enas_experiment", "test_networks",
    "test_pruning", "test_digits201", "test_trainer", "test_platform", "test_pruning_experiment", "test_hosts",
)  # fmt: skip


# What takes long, each beside quicker tests of the same subject: `.ci/run` runs these after `make test`.
LATER = {
    "test_accelerator": ("test_without_a_gpu",),
    "test_bad_inputs": (
        "test_wrong_input_is_told_with_its_value_before_anything_is_done[darts]",
        "test_wrong_input_is_told_with_its_value_before_anything_is_done[one_shot]",
    ),
    "test_cells": ("test_a_free_path_is_the_same_in_stages", "test_a_program_over_cells_without_none"),
    "test_check_primitive": ("test_every_operation_of_the_library",),
    "test_choices": (
        "test_a_network_computes_what_its_path_does_in_training_with_dropout_and_in_evaluation[convnet",
        "test_a_network_computes_what_its_path_does_in_training_with_dropout_and_in_evaluation[table",
        "test_blocks_of_a_python_loop",
        "test_its_supernet_obeys_the_laws[convnet",
    ),
    "test_controllers": ("test_it_is_the_micro_sampler_of_the_paper_and_so_are_its_gradients[2-n",),
    "test_data_batches": ("test_64_bits_by_default",),
    "test_data_files": ("test_two_processes_read_a_part_each_and_have_what_one_has[tfrecord",),
    "test_draw": (
        "test_texts_and_boxes_of_any_cell_are_apart_and_inside_and_no_line_runs_through_them[0",
        "test_texts_and_boxes_of_any_cell_are_apart_and_inside_and_no_line_runs_through_them[1",
        "test_texts_and_boxes_of_any_cell_are_apart_and_inside_and_no_line_runs_through_them[2",
    ),
    "test_dtype": (
        "test_activations_are_narrow_and_sums_over_positions_are_not[enas_macro",
        "test_activations_are_narrow_and_sums_over_positions_are_not[enas_micro",
        "test_outputs_and_gradients_are_those_of_float32_to_rounding[nasbench201-path",
        "test_outputs_and_gradients_are_those_of_float32_to_rounding[resnet",
    ),
    "test_enas_experiment": ("test_a_run_finds_scores_trains",),
    "test_executors": (
        "test_chosen_operations_are_each_edges_own[1-False-False",
        "test_chosen_operations_are_each_edges_own[2-True-True",
        "test_edges_of_a_stage_are_the_edges_one_by_one",
    ),
    "test_experiments": ("test_a_genotype_may_be_given_otherwise", "test_a_folder_of_images_may_move"),
    "test_export": (
        "test_int8_is_the_same_rounded_network",
        "test_onnx_gives_the_logits_of_every_network[darts_free",
        "test_onnx_gives_the_logits_of_every_network[enas_micro",
        "test_other_packages_read",
        "test_what_cannot_be_exported",
    ),
    "test_fit": (
        "test_of_finalists",
        "test_scores_of_other_parameters",
        "test_select_finds_the_best_within_a_budget_where_scores_add_up[ilp",
    ),
    "test_fuzz": ("test_flags[shrink", "test_flags[compare"),
    "test_health": ("test_a_measurement_gives_the_same_bits", "test_the_gap_is_of_the_mixture"),
    "test_leaderboard": ("test_finalists_are_looked_up",),
    "test_loop": ("test_a_signal_saves_and_exits",),
    "test_mixtures": ("test_of_one_hot_weights_a_sampled_mixture_has_the_value",),
    "test_nasbench101": ("test_laws_of_both_spaces",),
    "test_networks": ("test_a_path_has_the_auxiliary_head_of_the_network[scan",),
    "test_one_shot_experiment": ("test_a_run_trains_scores_chooses",),
    "test_one_shot_select": (
        "test_an_integer_program_over_next_to_nothing_scores_all_of_it[2",
        "test_latency_is_a_cost_like_the_others",
        "test_the_integer_program_finds_what_is_good_where_scores_do_not_add_up",
        "test_the_weakest_options_go",
    ),
    "test_own_table": ("test_a_sparse_table_is_searched", "test_a_space_is_named_and_read_in_its_notation[nasbench101"),
    "test_platform": ("test_a_training_step_of_a_found_network",),
    "test_predictor_experiment": ("test_a_run_writes_curves", "test_darts_cells_of_a_users_table"),
    "test_predictor_search": ("test_one_objective_alone",),
    "test_primitives": (
        "test_a_larger_operation_computes_each_of_its_cases[table1-2",
        "test_a_mixture_of_all_has_the_gradients_of_plain_sums[scan",
        "test_a_random_operation_of_a_layer_draws_what_it_draws_in_the_network[<lambda>1",
    ),
    "test_proxies": (
        "test_paths_have_the_scores_of_the_networks",
        "test_rectifiers_and_cells_are_found_in_every_space[chain",
    ),
    "test_reference": (
        "test_mixture_and_path_and_their_gradients_are_those_of_the_loops[darts",
        "test_mixture_and_path_and_their_gradients_are_those_of_the_loops[nasbench201-gpu",
        "test_the_supernet_of_ones_own",
        "test_what_a_second_order_hypergradient_takes_is_that_of_the_loops[whole",
    ),
    "test_shrink": (
        "test_a_regression_and_a_distance",
        "test_a_run_that_was_stopped",
        "test_another_order_of_units_changes_nothing_that_the_model_computes[nnx",
        "test_random_choices_use_the_budget",
        "test_scores_are_those_of_the_networks_cut_out",
    ),
    "test_stops": ("test_one_signal_ends_a_program",),
    "test_supernets": (
        "test_a_path_has_no_branch_on_a_gpu[chain",
        "test_a_path_has_no_branch_on_a_gpu[darts",
        "test_a_path_has_no_branch_on_a_gpu[enas_micro",
        "test_a_path_tells_and_takes_the_same_statistics_on_a_gpu[chain",
        "test_a_path_tells_and_takes_the_same_statistics_on_a_gpu[darts",
        "test_a_path_tells_and_takes_the_same_statistics_on_a_gpu[enas_micro",
        "test_recomputing_edges",
        "test_the_laws[chain",
        "test_the_laws[enas",
    ),
    "test_tabular": ("test_a_run_writes_table_curves", "test_samplers_of_ones_own"),
    "test_variants": ("test_the_variant_of_the_docs",),
}

# What takes longest: `make test-all` runs it all.
SLOW = {
    "test_cells": ("test_the_laws_of_a_free_supernet",),
    "test_choices": (
        "test_a_network_computes_what_its_path_does_in_training_with_dropout_and_in_evaluation[vit",
        "test_a_network_computes_what_its_path_does_in_training_with_dropout_and_in_evaluation[fused",
        "test_its_supernet_obeys_the_laws[table",
    ),
    "test_choices_page": ("",),
    "test_darts": ("test_exact_and_difference_agree_on_a_real_cell",),
    "test_digits201": ("test_a_lost_part_is_made_again",),
    "test_dtype": (
        "test_activations_are_narrow_and_sums_over_positions_are_not[darts-mixture",
        "test_activations_are_narrow_and_sums_over_positions_are_not[chain-path",
        "test_activations_are_narrow_and_sums_over_positions_are_not[enas_micro-path-how15",
        "test_activations_are_narrow_and_sums_over_positions_are_not[chain-mixture",
        "test_outputs_and_gradients_are_those_of_float32_to_rounding[darts-mixture",
        "test_a_run_keeps_its_type",
    ),
    "test_enas_experiment": ("test_the_first_of_two_seeds",),
    "test_executors": ("test_chosen_operations_are_each_edges_own[2-False-True",),
    "test_experiments": ("test_a_damaged_checkpoint_is_told", "test_a_folder_of_images_may_move_but_not_change[darts"),
    "test_export": ("test_the_commands_and_the_python_of_the_page_run",),
    "test_family": ("test_parts_of_p_darts", "test_a_selection_by_perturbation"),
    "test_fit": ("test_the_methods_after_darts_go_the_road",),
    "test_health": ("test_the_eigenvalue_of_a_real_supernet",),
    "test_hosts": ("",),
    "test_mixtures": (
        "test_what_a_slot_has_lost_counts_as_a_weight_of_zero[{'partial'",
        "test_of_one_hot_weights_a_sampled_mixture_has_the_value_and_the_gradients_of_the_whole[scan",
        "test_the_laws_of_supernets_hold",
        "test_used_is_what_a_path_reads",
    ),
    "test_networks": (
        "test_a_path_is_evaluated_by_given_statistics",
        "test_a_path_has_the_auxiliary_head_of_the_network[staged",
        "test_a_path_with_affine_norms_is_the_network",
        "test_stages_with_equal_cells",
    ),
    "test_one_shot_experiment": ("test_a_chain_is_trained_by_sandwiches",),
    "test_one_shot_select": (
        "test_an_integer_program_over_next_to_nothing_scores_all_of_it[4",
        "test_the_integer_program_finds_the_best_where_scores_add_up",
        "test_the_weakest_options_go_and_a_program_of_what_is_left_takes_none_of_them[gp",
        "test_a_graph_network_told_costs",
    ),
    "test_own_method": ("test_an_algorithm_of_ones_own", "test_a_sampler_of_ones_own"),
    "test_own_table": ("test_the_page_runs_as_it_stands",),
    "test_parallel": ("test_every_way_over_four_devices",),
    "test_parts": ("test_a_second_order_step_in_parts",),
    "test_platform": ("test_a_search_step_is_the_same", "test_seeds_are_the_same"),
    "test_predictor_experiment": ("test_search_by_a_predictor_is_a_method",),
    "test_predictor_search": ("test_a_front_is_found_with_fewer_evaluations_than_by_chance",),
    "test_predictors": (
        "test_a_predictor_ranks_what_it_has_not_seen_and_padding_changes_nothing[ensemble",
        "test_a_predictor_ranks_what_it_has_not_seen_and_padding_changes_nothing[gnn_ranking",
    ),
    "test_primitives": ("test_operations_of_ones_own_in_nasbench201", "test_a_darts_space_without_none"),
    "test_pruning": ("test_a_search_goes_on", "test_what_is_left_computes"),
    "test_pruning_experiment": ("test_a_search_shrinks",),
    "test_readme": ("test_the_first_lines_of_python_run",),
    "test_reference": (
        "test_mixture_and_path_and_their_gradients_are_those_of_the_loops[nasbench201 of parts-gpu",
        "test_mixture_and_path_and_their_gradients_are_those_of_the_loops[darts of parts",
        "test_mixture_and_path_and_their_gradients_are_those_of_the_loops[chain",
        "test_mixture_and_path_and_their_gradients_are_those_of_the_loops[enas",
        "test_a_sampled_mixture_and_its_gradients_are_those_of_the_loops",
    ),
    "test_shrink": (
        "test_another_order_of_units_changes_nothing_that_the_model_computes[convnet",
        "test_another_order_of_units_changes_nothing_that_the_model_computes[fused",
        "test_the_page_runs_as_it_stands",
    ),
    "test_single_path_digits": ("",),
    "test_stops": ("test_a_signal_ends_between_two_parts",),
    "test_tabular": ("test_on_a_table_with_gaps", "test_a_table_may_be_called_otherwise"),
    "test_trainer": ("test_one_compiled_step_teaches", "test_spread_over_an_axis"),
    "test_variants": ("test_second_order_is_the_numerical_derivative",),
}


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the long tests, too")
    parser.addoption("--later", action="store_true", help="run the tests that CI runs after the others, and only those")


def pytest_collection_modifyitems(config, items):
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    # A file or a test that is named on the command line is wanted whole.
    if config.getoption("--all") or any("::" in argument or argument.endswith(".py") for argument in config.args):
        return

    def among(item, listed):
        return item.name.startswith(listed.get(item.path.stem, ()))

    later = config.getoption("--later")
    kept, left = [], []
    for item in items:
        wanted = among(item, LATER) == later and not among(item, SLOW)
        (kept if wanted else left).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept
