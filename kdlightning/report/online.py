"""``python -m kdlightning.report.online PROJECT``: a page of W&B Reports on a project's runs. Needs the network.

W&B's package for that, ``wandb-workspaces``, is the extra ``wandb-page``; its API is a public preview.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from kdlightning.report.records import ReportError
from kdlightning.report.tracking import nobody_to_ask

_INTRODUCTION = (
    "A group holds the runs that differ in nothing but the seed; its name says paper, method, dataset, teacher, "
    "access, budget, network, variant, which are tags, too. Accuracies are those of the last checkpoint on the test "
    "images."
)


def publish_page(project: str, entity: str | None = None, title: str = "Comparison", *, draft: bool = False) -> str:
    """Make a page of a project's runs, save it and return its address; only its author sees a draft.

    The entity is the project's owner; None is the account's own default.

    Raises:
        ReportError: W&B is offline by ``WANDB_MODE``, the package or a key is missing, or W&B refuses.
    """
    if (mode := os.environ.get("WANDB_MODE", "online")) != "online":
        hint = "send the runs with `wandb sync`, then unset WANDB_MODE."
        raise ReportError(f"A page is made on W&B's server, and WANDB_MODE is {mode}: {hint}")
    try:
        wr = importlib.import_module("wandb_workspaces.reports.v2")
    except ImportError as error:
        raise ReportError("W&B's package for pages is missing: pip install wandb-workspaces") from error
    import wandb

    try:
        with nobody_to_ask():
            api = wandb.Api()
            owner = str(entity or api.default_entity)
            blocks = page_blocks(wr, project, owner, newest_media(api, f"{owner}/{project}"))
            page = wr.Report(project=project, entity=owner, title=title, blocks=blocks)
            return str(page.save(draft=draft).url)
    except wandb.errors.UsageError as error:
        raise ReportError(f"W&B did not let us in ({error}). Run `wandb login`, or set WANDB_API_KEY.") from error
    except Exception as error:  # what W&B's transport raises has no public class
        raise ReportError(f"W&B did not take the page of {project} ({type(error).__name__}: {error}).") from error


def newest_media(api: Any, path: str) -> list[str]:  # noqa: ANN401 - W&B's client
    """The keys of the figures and images that the newest `kdlightning report --wandb` has logged, sorted."""
    newest = next(iter(api.runs(path, filters={"jobType": "report"}, order="-created_at", per_page=1)), None)
    return sorted(key for key in newest.summary_metrics if key.startswith(("figures/", "images/"))) if newest else []


def page_blocks(wr: ModuleType, project: str, entity: str, media: Sequence[str] = ()) -> list[Any]:
    """What the page shows: accuracies, accuracy against queries, courses of training, and a report's figures."""
    owned = {"entity": entity, "project": project}
    runs = wr.Runset(name="runs", groupby=["Group"], filters="Metric('JobType') != 'report'", **owned)
    reports = wr.Runset(name="reports", filters="Metric('JobType') = 'report'", **owned)
    queries, accuracy = wr.SummaryMetric("result/queries"), wr.SummaryMetric("result/accuracy")
    compared = [
        wr.BarPlot(title="Test accuracy", metrics=["result/accuracy"], groupby="Group", max_bars_to_show=50),
        wr.ScatterPlot(title="Accuracy against queries", x=queries, y=accuracy, log_x=True),
    ]
    training = [
        wr.LinePlot(title="Validation accuracy", x="trainer/global_step", y=["val/accuracy"]),
        wr.LinePlot(title="Loss", x="trainer/global_step", y=["train/loss"]),
        wr.LinePlot(title="Images answered by the teacher", x="trainer/global_step", y=["teacher/queries"]),
        wr.ParameterImportancePlot(with_respect_to="val/accuracy"),
    ]
    logged = [wr.MediaBrowser(title="Figures", media_keys=list(media)), wr.RunComparer(diff_only="split")]
    return [
        wr.P(_INTRODUCTION),
        wr.H1("Accuracy"),
        wr.PanelGrid(runsets=[runs], panels=compared),
        wr.H1("Training"),
        wr.PanelGrid(runsets=[runs], panels=training),
        wr.H1("Reports"),
        wr.P("What `kdlightning report --wandb` has logged: tables, figures, images, who is taken for whom."),
        wr.PanelGrid(runsets=[reports], panels=logged),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Make a page and print its address; the exit code is 2 when none could be made."""
    parser = argparse.ArgumentParser(prog="python -m kdlightning.report.online", description=__doc__)
    parser.add_argument("project", help="W&B's project with the runs")
    parser.add_argument("--entity", help="whose project (default: the account's own)")
    parser.add_argument("--title", default="Comparison", help="of the page (default: %(default)s)")
    parser.add_argument("--draft", action="store_true", help="only its author sees it")
    arguments = parser.parse_args(argv)
    try:
        address = publish_page(arguments.project, arguments.entity, arguments.title, draft=arguments.draft)
    except ReportError as error:
        sys.stderr.write(f"kdlightning.report.online: {error}\n")
        return 2
    sys.stdout.write(f"{address}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
