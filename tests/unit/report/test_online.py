"""The page that W&B's package makes; only its client is a stand-in, so nothing is sent."""

import json
import sys
from types import SimpleNamespace

import pytest

from kdlightning.report import ReportError, online


class Service:
    """Answers the three questions that a page asks of W&B's server."""

    app_url = "https://wandb.example"

    def __init__(self):
        self.saved = []

    def execute_graphql(self, query, variables=None):
        query = str(query)
        if "upsertView" not in query:
            return {"project": {"internalId": "UHJvamVjdDox"}}
        self.saved.append(variables)
        keys = ("name", "displayName", "description", "spec")
        project = {"name": variables["projectName"], "entityName": variables["entityName"]}
        return {"upsertView": {"view": {"id": "Vmlldzox", "project": project, **{key: variables[key] for key in keys}}}}


@pytest.fixture
def service(monkeypatch):
    import wandb

    service, asked = Service(), []

    class Api:
        default_entity = "me"
        _service_api = service

        def __init__(self):
            self.__dict__["_service_api"] = service

        def projects(self, entity):
            return [SimpleNamespace(name="digits")]

        def runs(self, path, **options):
            asked.append((path, options["filters"]))
            return [SimpleNamespace(summary_metrics={"figures/b": {}, "images/a": {}, "results": {}, "accuracy/x": {}})]

    monkeypatch.setattr(wandb, "Api", Api)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    service.asked = asked
    return service


def test_a_page_is_saved_and_its_address_told(service, capsys):
    assert online.main(["digits", "--title", "All methods"]) == 0
    assert capsys.readouterr().out == "https://wandb.example/me/digits/reports/All-methods--Vmlldzox\n"
    (page,) = service.saved
    assert (page["entityName"], page["projectName"], page["displayName"]) == ("me", "digits", "All methods")
    assert page["type"] == "runs"
    assert service.asked == [("me/digits", {"jobType": "report"})]
    grids = [block["metadata"] for block in json.loads(page["spec"])["blocks"] if block["type"] == "panel-grid"]
    filters = [grid["runSets"][0]["filters"]["filters"][0] for grid in grids]
    assert [(one["key"]["name"], one["op"], one["value"]) for one in filters] == [
        ("jobType", "!=", "report"), ("jobType", "!=", "report"), ("jobType", "=", "report"),
    ]  # fmt: skip
    assert grids[0]["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]
    panels = [panel["config"] for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    assert (panels[0]["metrics"], panels[0]["groupBy"]) == (["result/accuracy"], "group")
    assert (panels[1]["xAxis"], panels[1]["yAxis"]) == ("summary:result/queries", "summary:result/accuracy")
    assert panels[-2]["mediaKeys"] == ["figures/b", "images/a"]


def test_a_draft_for_another_entity(service):
    assert online.publish_page("digits", "team", draft=True).startswith("https://wandb.example/team/digits/reports/")
    assert [(page["entityName"], page["type"]) for page in service.saved] == [("team", "runs/draft")]


def test_offline_it_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert online.main(["digits"]) == 2
    assert "WANDB_MODE is offline: send the runs with `wandb sync`" in capsys.readouterr().err


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(ReportError, match="pip install wandb-workspaces"):
        online.publish_page("digits")


def test_without_a_key_it_says_how_to_get_in(service, monkeypatch):
    import wandb

    def refuse():
        assert not sys.stdin.isatty()
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "Api", refuse)
    with pytest.raises(ReportError, match=r"let us in \(No API key configured.\).*wandb login.*WANDB_API_KEY"):
        online.publish_page("digits", "me")


def test_what_the_server_refuses_is_a_message(service, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no such project")

    monkeypatch.setattr(service, "execute_graphql", refuse)
    with pytest.raises(ReportError, match=r"did not take the page of digits \(RuntimeError: no such project\)"):
        online.publish_page("digits", "me")
