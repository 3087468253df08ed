"""The toy world's benchmark: what is measured, what is run, and what is made of the figures."""

import copy
import random
from dataclasses import replace

import pytest
import torch

from attractor.trainer.methods import METHODS, resolve_learning_rate
from attractor.trainer.settings import TrainingSettings
from toy_world import scenes, toy_subjects
from toy_world.bench import claims, grid, report, runs
from toy_world.bench.measures import MEASURES, confound_share, measure
from toy_world.bench.table import ALONE, METRICS, TRAIN_METRICS, Table
from toy_world.judges import load_judge


def seen(scene):
    """What a judge says that makes no mistake."""
    subject = scene.subject
    look = {
        "presence": "yes" if subject else "no",
        "gear": scene.gear,
        "place": scene.setting.place,
        "tint": scene.setting.tint,
    }
    known = subject or scenes.random_subject(random.Random(0))  # it has an answer to every question
    return look | {name: getattr(known, name) for name in ("category", "colour", "pattern", "shape", "part")}


def test_presets_are_measured_as_nobody_touched_them():
    for name, value in grid.UNTOUCHED.items():
        if name in ("steps", "batch_size", "checkpoint_every"):
            assert value == getattr(TrainingSettings(), name)
    for configuration in map(grid.CONFIGURATIONS.get, grid.GROUPS["qualities"][1:]):
        assert not {"prompts_per_step", "patience", "score_every"} & set(configuration.inputs())


# --- measures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(4))
def test_the_right_subject_in_the_right_setting_is_all_there_and_nothing_leaks(index):
    toy = toy_subjects.toy_subject(index)
    for scene in toy.test:
        assert measure(seen(scene), toy, scene) == {"subject": 1.0, "leak": 0.0, "scene": 1.0}


def test_the_training_photos_setting_leaks_and_is_not_the_captions():
    toy = toy_subjects.toy_subject(0)
    for scene in toy.test:
        leaked = replace(scene, setting=toy.confound, gear="none")
        assert measure(seen(leaked), toy, scene) == {"subject": 1.0, "leak": 1.0, "scene": 0.0}


def test_half_a_setting_leaks_too():
    toy, scene = toy_subjects.toy_subject(0), toy_subjects.toy_subject(0).test[0]
    for part in ("place", "tint"):
        half = replace(scene, setting=replace(scene.setting, **{part: getattr(toy.confound, part)}))
        found = measure(seen(half), toy, scene)
        assert found["leak"] == 1.0 and 0 < found["scene"] < 1
        assert confound_share(seen(half), toy) == 0.5


def test_each_wrong_attribute_costs_a_fifth_and_an_empty_scene_has_no_subject():
    toy, scene = toy_subjects.toy_subject(0), toy_subjects.toy_subject(0).test[0]
    for count, name in enumerate(("category", "colour", "pattern", "shape", "part"), 1):
        wrong = {**seen(scene), **dict.fromkeys(("category", "colour", "pattern", "shape", "part")[:count], "wrong")}
        assert measure(wrong, toy, scene)["subject"] == pytest.approx(1 - count / 5), name
    assert measure({**seen(scene), "presence": "no"}, toy, scene)["subject"] == 0


def test_gear_counts_where_the_caption_names_it_only():
    toy = toy_subjects.toy_subject(0)
    worn = next(scene for scene in toy.test if scene.gear != "none")
    bare = next(scene for scene in toy.test if scene.gear == "none")
    assert measure(seen(replace(worn, gear="none")), toy, worn)["scene"] == pytest.approx(2 / 3)
    assert measure(seen(replace(bare, gear="hat")), toy, bare)["scene"] == 1


# --- what is run ------------------------------------------------------------------------------------


def test_every_name_of_the_issue_is_run():
    inputs = [c.inputs() for c in grid.CONFIGURATIONS.values() if c.trained]
    assert {own["method"] for own in inputs} == set(METHODS)
    schedules = {grid.CONFIGURATIONS[name].inputs()["contrast_schedule"] for name in grid.GROUPS["schedules"]}
    assert schedules == {"cosine", "sigmoid", "linear", "exponential", "zero", "one"}
    assert {c.super_category for c in grid.CONFIGURATIONS.values()} == {"right", "wrong", "neutral"}
    assert {own["learning_rate"] for own in inputs if own["learning_rate_preset"] == "custom"} >= {1e-5, 1e-4, 1e-3}
    shown = [grid.SHOWN_AS["ladder"].get(name, name) for name in grid.GROUPS["ladder"]]
    assert shown == ["no mask", "mask only", "mask + prior", "mask + attractor", "mask + attractor + contrast"]
    assert {name for names in grid.GROUPS.values() for name in names} == set(grid.CONFIGURATIONS)


def test_nothing_is_run_twice():
    """Under another name, or as a checkpoint of a longer run."""
    found = []
    for configuration in grid.CONFIGURATIONS.values():
        inputs = configuration.inputs() if configuration.trained else {}
        rate = inputs and resolve_learning_rate(
            inputs.pop("learning_rate_preset"), inputs["method"], inputs["batch_size"], inputs.pop("learning_rate")
        )
        for name in ("steps", "checkpoint_every"):
            inputs.pop(name, None)
        # A share of the steps is no checkpoint of all of them: the contrast's schedule is another.
        found.append((configuration.super_category, configuration.share, rate, sorted(inputs.items())))
    assert all(one != other for i, one in enumerate(found) for other in found[:i])


def test_the_rungs_of_the_ladder_are_what_they_are_called():
    """By what the trainer makes of the inputs."""

    def settings(name):
        inputs = grid.CONFIGURATIONS[name].inputs()
        return TrainingSettings(**{key: value for key, value in inputs.items() if hasattr(TrainingSettings(), key)})

    assert not settings("neti").uses_attractor
    mask, prior, attractor, contrast = (settings(name) for name in grid.GROUPS["ladder"][1:])
    assert mask.loss_weights == prior.loss_weights == {"subject": 1.0}
    assert not mask.uses_prior and not mask.uses_contrast and prior.uses_prior and not prior.uses_contrast
    assert len(attractor.loss_weights) == 3 and not attractor.uses_contrast and contrast.uses_contrast
    assert not any(own.uses_prior for own in (attractor, contrast))


def test_all_are_compared_after_the_same_steps():
    for configuration in grid.CONFIGURATIONS.values():
        inputs = configuration.inputs(40)
        if configuration.quality or configuration.share < 1:
            assert inputs["steps"] == (500 if configuration.quality else 13)
            continue
        assert inputs["steps"] % inputs["checkpoint_every"] == 0
        saved = range(inputs["checkpoint_every"], inputs["steps"] + 1, inputs["checkpoint_every"])
        if configuration.slow:
            assert inputs["steps"] == (320 if configuration.scored else 160)
            continue
        assert 40 in saved and (inputs["steps"] == 40 or configuration.curve)


def test_the_presets_are_shown_with_their_rates():
    for method in grid.RATES:
        rate = resolve_learning_rate("auto", method, grid.BASE["batch_size"], 0)
        assert f"lr {rate:g} " in grid.SHOWN_AS["rates"][method] and rate not in grid.RATES[method]


def test_configurations_are_chosen_by_name_or_group_and_unknown_ones_are_refused():
    assert {c.name for c in grid.chosen(["methods", "word wrong"])} == {*grid.GROUPS["methods"], "word wrong"}
    assert len(grid.chosen([])) == len(grid.CONFIGURATIONS)
    with pytest.raises(ValueError, match="no configuration or group is called nonsense"):
        grid.chosen(["nonsense"])


def test_another_setting_is_another_run():
    toy, plan = toy_subjects.toy_subject(0), runs.Plan()
    run = runs.Run(grid.CONFIGURATIONS["neti+"], toy, 0, plan)
    others = [
        replace(run, seed=1),
        replace(run, toy=toy_subjects.toy_subject(1)),
        replace(run, plan=replace(plan, steps=40)),
        replace(run, configuration=grid.CONFIGURATIONS["neti"]),
        replace(run, configuration=replace(run.configuration, changes={"tau": 0.1})),
    ]
    assert len({other.key for other in (run, *others)}) == 6
    assert runs.Run(grid.CONFIGURATIONS["neti+"], toy_subjects.toy_subject(0), 0, plan).key == run.key
    assert replace(plan, evaluation=()).hash != plan.hash != replace(plan, steps=40).hash


def test_a_wrong_word_is_the_other_category():
    assert [grid.word_for(grid.CONFIGURATIONS[name], "vase") for name in grid.GROUPS["words"]] == ["vase", "monster", "thing"]


# --- what is made of it -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0.01, 0.2, claims.HOLDS),
        (-0.2, -0.01, claims.FAILS),
        (-0.1, 0.1, claims.UNDECIDED),
        (0.0, 0.1, claims.UNDECIDED),
        (-0.1, 0.0, claims.UNDECIDED),
        (None, None, claims.UNDECIDED),
    ],
)
def test_the_rule_for_a_difference(low, high, expected):
    assert claims.verdict(low, high) == expected


def test_a_claim_holds_only_where_all_of_it_does():
    holds, fails, undecided, missing = claims.HOLDS, claims.FAILS, claims.UNDECIDED, claims.NOT_RUN
    assert claims.overall([holds, holds]) == holds
    assert claims.overall([holds, undecided]) == undecided
    assert claims.overall([holds, undecided, fails]) == fails
    assert claims.overall([holds, missing]) == missing


def results(offset, leak=0.5):
    """Results of every configuration. offset(configuration, measure, step): what lies above 0.5, the same for all images."""
    found = []
    for name, configuration in grid.CONFIGURATIONS.items():
        for number, subject in enumerate(("monster-1", "vase-1", "monster-2")):
            inputs = configuration.inputs() if configuration.trained else {"steps": 0, "checkpoint_every": 1}
            steps = range(inputs["checkpoint_every"], inputs["steps"] + 1, inputs["checkpoint_every"])
            steps = list(steps) if configuration.curve else [inputs["steps"]]
            entries = [
                {
                    "step": step,
                    "images": [
                        {
                            "photo": f"{photo:02d}.png",
                            "caption": 0,
                            "index": 0,
                            "prompt": "",
                            "image": "",
                            "values": {
                                column: 0.5 + 0.01 * number + 0.001 * photo + offset(name, column, step)
                                for column in report.COLUMNS
                                if column != ALONE
                            },
                        }
                        for photo in range(1, 4)
                    ],
                }
                for step in steps
            ]
            shown = {"attractor": (0.1, 0.9), "subject": (0.9, 0.1), "word": (0.2, 0.2)}
            attractors = [
                {"kind": kind, "attractor": 0, "index": index, "image": "", "present": present, "confound": confound}
                for kind, (present, confound) in shown.items()
                for index in range(2)
            ]
            found.append(
                {
                    "configuration": name,
                    "subject": subject,
                    "seed": 0,
                    "inputs": inputs,
                    "entries": entries,
                    "plan": {"steps": grid.STEPS},
                    "version": "test",
                    "seconds": {"all": 1.0},
                    "alone": attractors if configuration.attractors else [],
                    "scores": [
                        {"step": step, **{column: 0.5 + offset(name, column, step) for column in (*METRICS, *TRAIN_METRICS)}}
                        for step in range(120, 961, 120)
                        if configuration.scored
                    ],
                }
            )
    return found


def as_the_paper_says(name, column, step):
    if column == "leak":
        return {"neti": 0.2, "textual_inversion": 0.2}.get(name, 0.0)
    value = {
        "textual_inversion": -0.2,
        "textual_inversion+": -0.15,
        "neti": -0.1,
        "schedule zero": -0.05,
        "schedule exponential": -0.07,
        "schedule one": -0.08,
    }.get(name, 0.0)
    overfit = -0.0001 * max(step - grid.STEPS, 0)
    return value + (overfit if column in METRICS else 0.0)


def test_claims_hold_on_figures_as_the_paper_has_them():
    made = claims.make_claims(Table(results(as_the_paper_says)))
    assert {claim.name: claim.verdict for claim in made} == dict.fromkeys((claim.name for claim in made), claims.HOLDS)
    parts = {(claim.name, part.what, part.measure): part for claim in made for part in claim.parts}
    less_leak = parts["NeTI+ > NeTI", "neti+ - neti", "less leak"]
    assert less_leak.estimate.mean == pytest.approx(0.2) and not less_leak.decides
    assert all("it does here" in claim.sentence() for claim in made)


def test_claims_do_not_hold_on_the_opposite_figures():
    made = claims.make_claims(Table(results(lambda *what: -as_the_paper_says(*what))))
    assert {claim.verdict for claim in made if "Fig. 9" not in claim.name} == {claims.FAILS}


def test_a_claim_without_its_runs_is_not_decided():
    kept = [result for result in results(as_the_paper_says) if result["configuration"] != "schedule one"]
    verdicts = {claim.name: claim.verdict for claim in claims.make_claims(Table(kept))}
    assert verdicts["zero > exponential, one"] == claims.NOT_RUN and verdicts["NeTI+ > NeTI"] == claims.HOLDS


def test_only_images_of_the_same_prompt_and_seed_are_compared():
    """And only means over the same subjects and seeds stand in a table."""
    found = results(as_the_paper_says)
    for result in copy.deepcopy(found):
        if result["configuration"] == "neti+":  # a seed that the others do not have
            for image in (image for entry in result["entries"] for image in entry["images"]):
                image["values"] = dict.fromkeys(image["values"], 99.0)
            found.append({**result, "seed": 1})
    part = claims.make_claims(Table(found))[1].parts[0]
    assert part.estimate.mean == pytest.approx(0.1) and part.estimate.images == 9
    table = Table(found)
    own = table.shared(["neti", "neti+"])
    assert (table.runs("neti+"), own.runs("neti+")) == (6, 3) and table.mean("neti+", "dino").mean > 10
    assert own.mean("neti+", "dino").mean - own.mean("neti", "dino").mean == pytest.approx(0.1)
    assert not table.shared(["neti", "never run"]).results


def test_steps_to_a_score_are_the_first_that_reach_it():
    curve = [(40, 0.2), (80, 0.5), (120, 0.4), (160, 0.6)]
    assert [report.steps_to(curve, target) for target in (0.1, 0.5, 0.55, 0.7)] == [40, 80, 160, None]


def test_the_table_has_the_papers_scores_and_the_ground_truths():
    assert report.COLUMNS == (*METRICS, *TRAIN_METRICS, *MEASURES, ALONE)


def test_what_the_judge_sees_in_true_pictures_is_what_is_measured():
    """The right subject in the caption's setting against the same in the training photos' setting."""
    judge, right, leaked = load_judge(), [], []
    for index in range(4):
        toy = toy_subjects.toy_subject(index)
        for scenes_of, found in ((toy.test, right), ([replace(s, setting=toy.train[0].setting) for s in toy.test], leaked)):
            pictures = torch.stack([torch.from_numpy(scenes.render(scene)[0] / 255).float() for scene in scenes_of])
            found += [measure(look, toy, scene) for look, scene in zip(judge.look(pictures), toy.test, strict=True)]

    def mean(found, name):
        return sum(values[name] for values in found) / len(found)

    assert mean(right, "subject") > 0.9 and mean(right, "leak") < 0.05 and mean(right, "scene") > 0.9
    assert mean(leaked, "subject") > 0.9 and mean(leaked, "leak") > 0.95 and mean(leaked, "scene") < 0.4
