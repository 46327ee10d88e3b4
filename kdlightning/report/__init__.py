"""Finished runs → comparison tables and figures, as Markdown, HTML, CSV, JSON and in W&B; needs no torch.

The callback `kdlightning.callbacks.RunResult` writes the record that is read here: ``result.json`` in the trainer's
``default_root_dir``, when a fitted network has been tested. The command line adds it to every run. In Python::

    trainer = L.Trainer(default_root_dir="runs/mine", callbacks=[RunResult(role="student", variant="mbd", seed=1)])
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data)
    write_report([Path("runs")])

Each kind of file is a model of `kdlightning.report.records`; a file that does not fit is named with what is wrong.
"""

from kdlightning.report.curves import AccuracyCurve, Arm, find_curves, plot_curve
from kdlightning.report.figures import Picture, draw_confusions, draw_curves, draw_figures, draw_privacy
from kdlightning.report.findings import Findings, Problem, read_confusions, read_runs
from kdlightning.report.pages import Report, read_report, write_html, write_markdown, write_report
from kdlightning.report.paired import Comparison, compare, compare_all
from kdlightning.report.records import (
    Confusion,
    GeneratorRun,
    LeftOut,
    Nearness,
    Privacy,
    ReportError,
    Row,
    Run,
    TransferSet,
)
from kdlightning.report.reruns import recognise
from kdlightning.report.rows import find, load_rows, summarise
from kdlightning.report.tables import print_generators, print_table
from kdlightning.report.tracking import log_to_wandb

__all__ = [
    "AccuracyCurve", "Arm", "Comparison", "Confusion", "Findings", "GeneratorRun", "LeftOut", "Nearness", "Picture",
    "Privacy", "Problem", "Report", "ReportError", "Row", "Run", "TransferSet", "compare", "compare_all",
    "draw_confusions", "draw_curves", "draw_figures", "draw_privacy", "find", "find_curves", "load_rows",
    "log_to_wandb", "plot_curve", "print_generators", "print_table", "read_confusions", "read_report", "read_runs",
    "recognise", "summarise", "write_html", "write_markdown", "write_report",
]  # fmt: skip
