"""One sentence on the best student of a data set."""

from kdlightning.report import load_rows, read_runs, summarise, write_report
from kdlightning.report.headline import headline


def said(workspace):
    return headline(summarise(read_runs([workspace.root]).runs)[0])


def test_the_best_mean_counts_with_its_seeds_its_price_and_its_teacher(workspace):
    workspace.teacher(accuracy=0.9723, parameters=240_000)
    for seed, accuracy in ((1, 0.97), (2, 0.99)):
        workspace.run(seed=seed, accuracy=accuracy, queries=978_937)
        workspace.run(seed=seed, role="reference", method="Supervised", variant=None, access="labels", accuracy=0.95)
    workspace.run(method="MEKD", accuracy=0.975)
    sentence = (
        "DB3KD (mbd) reaches 98.00 ± 1.41 % (2 seeds) with 1/24 of the parameters for 978,937 queries; its teacher "
        "LeNet5 has 97.23 % (1 seed); LeNet5Fifth without a teacher has 95.00 ± 0.00 % (2 seeds)."
    )
    assert said(workspace) == sentence
    output = write_report([workspace.root])
    assert f"**{sentence}**" in (output / "report.md").read_text()
    assert f'<p class="headline">{sentence}</p>' in (output / "report.html").read_text()
    assert headline(load_rows(output / "results.json")) == sentence


def test_a_single_lucky_seed_is_said_to_be_one(workspace):
    for seed, accuracy in ((1, 0.90), (2, 0.99)):
        workspace.run(seed=seed, accuracy=accuracy)
    workspace.run(method="Lucky", variant=None, accuracy=0.96, parameters=None, queries=1)
    assert said(workspace) == (
        "Lucky reaches 96.00 % (1 seed) with LeNet5Fifth for 1 query; its teacher is not among these runs."
    )


def test_a_white_box_is_not_asked_and_a_student_of_half_the_size_is_no_tenth(workspace):
    workspace.teacher(parameters=20_000)
    workspace.run(access="white", queries=0)
    assert said(workspace) == (
        "DB3KD (mbd) reaches 97.00 % (1 seed) with 50 % of the parameters and the teacher's weights at hand; its "
        "teacher LeNet5 has 99.00 % (1 seed)."
    )


def test_without_labels_the_agreement_is_the_result_and_the_report_has_it(workspace):
    for seed, agreement in ((1, 0.90), (2, 0.94)):
        workspace.run(seed=seed, accuracy=None, agreement=agreement, queries=60)
    workspace.run(method="Unknown", accuracy=None, agreement=None)
    assert said(workspace) == (
        "DB3KD (mbd) agrees with its teacher LeNet5 on 92.00 ± 2.83 % of images (2 seeds), with LeNet5Fifth for 60 "
        "queries."
    )
    page = (write_report([workspace.root]) / "report.md").read_text()
    assert "| DB3KD (mbd) | LeNet5Fifth | hard | – (2) | 92.00 ± 2.83 |" in page
    assert "could not be read" not in page


def test_of_two_teachers_with_one_name_both_are_stated(workspace):
    workspace.teacher(variant="a", accuracy=0.99)
    workspace.teacher(variant="b", accuracy=0.98, parameters=1)
    workspace.run(queries=None)
    assert said(workspace) == (
        "DB3KD (mbd) reaches 97.00 % (1 seed) with LeNet5Fifth; its teacher LeNet5 has 99.00 % (1 seed) or 98.00 % "
        "(1 seed)."
    )


def test_without_a_student_there_is_nothing_to_say(workspace):
    workspace.teacher()
    assert said(workspace) is None
    assert 'class="headline"' not in (write_report([workspace.root]) / "report.html").read_text()
