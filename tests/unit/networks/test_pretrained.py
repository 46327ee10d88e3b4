import json
import socket
import sys
import types
from pathlib import Path

import huggingface_hub
import pytest
import torch
import torchvision
from torch import nn

import kdlightning
from kdlightning.networks import (
    VGG,
    Adapter,
    LeNet5,
    LeNet5Fifth,
    Network,
    ResNet8,
    TimmNetwork,
    TorchvisionNetwork,
    check_saving,
    fingerprint,
    load_network,
    load_state,
    push_network,
    save_network,
)
from kdlightning.networks.pretrained import name_of


class Tiny(nn.Module):
    """A user's own module: knows nothing of the package."""

    def __init__(self, classes, scale=1.0):
        super().__init__()
        self.linear = nn.Linear(4, classes)
        self.scale = scale

    def forward(self, x):
        return self.scale * self.linear(x[:, 0, :2, :2].flatten(1))


class Tied(Network):
    """Two layers that share their weight."""

    def __init__(self):
        super().__init__(4, 1, 2, 4)
        self.body, self.neck, self.classifier = nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4)
        self.classifier.weight = self.neck.weight


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The classes above under a module name that can be imported whatever pytest calls this file."""
    module = types.ModuleType("user_networks")
    for cls in (Tiny, Tied):
        monkeypatch.setattr(cls, "__module__", "user_networks")
        setattr(module, cls.__name__, cls)
    module.make_tiny = make_tiny
    module.anything = lambda: nn.Linear(1, 1)
    monkeypatch.setitem(sys.modules, "user_networks", module)


def make_tiny(classes: int) -> nn.Module:
    return Tiny(classes)


@pytest.fixture
def lenet(tmp_path):
    torch.manual_seed(0)
    network = LeNet5(10, width=0.2, mean=(0.1,), std=[0.3])
    return network, save_network(network, tmp_path / "runs" / "lenet", notes={"seed": 1})


@pytest.mark.parametrize(
    "make",
    [
        lambda: LeNet5Fifth(3, image_size=32),
        lambda: ResNet8(5, 1, mean=[0.5], std=[0.2]),
        lambda: VGG(11, width=0.1, batch_norm=True, hidden=(), pools=3),
        lambda: TorchvisionNetwork("mobilenet_v3_small", 4, input_size=32, mean=[0.5] * 3, std=[0.5] * 3),
        lambda: TimmNetwork("resnet18", 4, input_size=32),
        lambda: Adapter(ResNet8(5), 5, mean=[0.5] * 3, std=[0.2] * 3, size=16),
        lambda: Adapter(network=ResNet8(5), num_classes=5),
        Tied,
    ],
)
def test_a_loaded_network_answers_the_same(make, tmp_path):
    torch.manual_seed(0)
    network = make()
    x = torch.rand(4, network.in_channels, network.image_size, network.image_size)
    network.train()(x)  # running statistics must come along
    path = save_network(network, tmp_path / "net")
    before = torch.random.get_rng_state()
    save_network(network, tmp_path / "net")
    assert torch.equal(before, torch.random.get_rng_state())
    loaded = load_network(path)
    assert type(loaded) is type(network)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(x), network.eval()(x))
    assert fingerprint(loaded) == fingerprint(network)


def test_directory_holds_two_files_that_describe_themselves(lenet):
    network, path = lenet
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
    assert list(path.parent.iterdir()) == [path]
    assert json.loads((path / "config.json").read_text()) == {
        "num_classes": 10,
        "in_channels": 1,
        "image_size": 28,
        "width": 0.2,
        "mean": [0.1],
        "std": [0.3],
        "class_path": "kdlightning.networks.lenet.LeNet5",
        "kdlightning_version": kdlightning.__version__,
        "fingerprint": fingerprint(network),
        "facts": {
            "architecture": "LeNet5",
            "num_classes": 10,
            "class_names": None,
            "preprocessing": {
                "in_channels": 1,
                "image_size": 28,
                "input_size": None,
                "mean": [pytest.approx(0.1)],
                "std": [pytest.approx(0.3)],
            },
        },
        "notes": {"seed": 1},
    }


def test_another_class_path_keeps_the_remembered_arguments(lenet, tmp_path):
    network, _ = lenet
    path = save_network(network, tmp_path / "net", class_path="kdlightning.networks.LeNet5")
    config = json.loads((path / "config.json").read_text())
    assert (config["class_path"], config["width"]) == ("kdlightning.networks.LeNet5", 0.2)
    assert fingerprint(load_network(path)) == fingerprint(network)


def test_from_pretrained_of_the_base_and_of_the_class(lenet):
    network, path = lenet
    x = torch.rand(2, 1, 28, 28)
    for cls in (Network, LeNet5):
        loaded = cls.from_pretrained(path)
        assert isinstance(loaded, LeNet5)
        assert torch.equal(loaded(x), network(x))
    with pytest.raises(TypeError, match="holds a LeNet5, not a ResNet8"):
        ResNet8.from_pretrained(path)


def test_the_hubs_own_save_writes_the_same_files(lenet, tmp_path):
    network, _ = lenet
    network.save_pretrained(tmp_path / "hub")
    assert fingerprint(load_network(tmp_path / "hub")) == fingerprint(network)
    LeNet5Fifth().save_pretrained(tmp_path / "hub")
    assert isinstance(load_network(tmp_path / "hub"), LeNet5Fifth)


def test_different_weights_are_not_overwritten(lenet, tmp_path):
    network, path = lenet
    (path / "notes.txt").write_text("mine")
    save_network(network, path, notes={"again": True})
    assert json.loads((path / "config.json").read_text())["notes"] == {"again": True}
    other = LeNet5(width=0.2)
    with pytest.raises(FileExistsError, match="holds different weights"):
        save_network(other, path)
    assert fingerprint(load_network(path)) == fingerprint(network)
    save_network(other, path, overwrite=True)
    assert fingerprint(load_network(path)) == fingerprint(other)
    assert (path / "notes.txt").read_text() == "mine"


def test_weights_of_unknown_origin_are_not_overwritten(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="holds different weights"):
        save_network(LeNet5Fifth(), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("kdlightning.networks.pretrained.save_file", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save_network(LeNet5Fifth(), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_fingerprint_follows_every_tensor_but_not_their_order():
    torch.manual_seed(0)
    network = LeNet5Fifth(mean=[0.5], std=[0.5])
    first = fingerprint(network)
    assert len(first) == 64
    assert first == fingerprint(network.eval())
    network.classifier.bias.data[3] += 1e-6
    second = fingerprint(network)
    network.normalize.std += 0.1
    assert len({first, second, fingerprint(network), fingerprint(network.half())}) == 4
    a, b = nn.Linear(2, 2), nn.ReLU()
    one, two = nn.ModuleDict({"a": a, "b": b}), nn.ModuleDict({"b": b})
    two["a"] = a
    assert fingerprint(one) == fingerprint(two)


def test_half_precision_survives(tmp_path):
    network = LeNet5Fifth().to(torch.bfloat16)
    loaded = load_network(save_network(network, tmp_path / "net"))
    assert loaded.classifier.weight.dtype == torch.bfloat16
    assert fingerprint(loaded) == fingerprint(network)


def test_changed_weights_are_noticed(lenet):
    _, path = lenet
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="are not those that were saved: fingerprint"):
        load_network(path)


def test_truncated_weights_are_noticed(lenet):
    _, path = lenet
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_network(path)


def edit(path, **changes):
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"class_path": "nowhere.Net"},
            ValueError,
            "unknown network class 'nowhere.Net'.*install the package",
        ),
        ({"class_path": "kdlightning.networks.LeNet9"}, ValueError, "unknown network class"),
        ({"class_path": "LeNet5"}, ValueError, "unknown network class"),
        ({"class_path": "os.system"}, TypeError, "neither a torch.nn.Module nor"),
        ({"class_path": "pathlib.Path"}, TypeError, "neither a torch.nn.Module nor"),
        ({"class_path": "user_networks.anything"}, TypeError, r"write `def anything\(\.\.\.\) -> torch\.nn\.Module:`"),
        ({"class_path": None}, ValueError, "has no class_path"),
        ({"fingerprint": None}, ValueError, "has no fingerprint"),
        ({"depth": 3}, ValueError, "cannot be built from .*depth"),
        ({"width": 0.5}, ValueError, r"model\.safetensors does not fit kdlightning"),
        ({"mean": None, "std": None}, ValueError, r"model\.safetensors does not fit kdlightning"),
    ],
)
def test_a_wrong_configuration_is_explained(lenet, changes, error, message):
    _, path = lenet
    edit(path, **changes)
    with pytest.raises(error, match=message):
        load_network(path)


def test_missing_files_are_named(lenet, tmp_path):
    _, path = lenet
    with pytest.raises(FileNotFoundError, match="run the `fit` that writes it first"):
        load_network(tmp_path / "missing")
    (tmp_path / "mine.pth").touch()
    with pytest.raises(FileNotFoundError, match=r"mine\.pth is a file; expected a directory.* by Adapter"):
        load_network(tmp_path / "mine.pth")
    (path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_network(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors does not exist"):
        load_state(path)
    (path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        load_network(path)


def test_a_path_below_a_local_directory_never_asks_the_hub(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    for source in ("runs/teacher", "runs/a/b", "./owner/name", "teacher"):
        with pytest.raises(FileNotFoundError, match="run the `fit` that writes it first"):
            load_network(source)


def test_a_repository_is_downloaded(lenet, tmp_path, monkeypatch):
    network, path = lenet
    calls = []

    def snapshot_download(repo_id, *, revision, allow_patterns):
        calls.append((repo_id, revision, sorted(allow_patterns)))
        return str(path)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert fingerprint(load_network("owner/name", revision="v1")) == fingerprint(network)
    assert calls == [("owner/name", "v1", ["config.json", "model.safetensors"])]
    with pytest.raises(ValueError, match="is a local directory, which has no revision v1"):
        load_network(path, revision="v1")


def test_an_unreachable_repository_is_explained(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match=r"neither a local directory .* nor a repository .*no network"):
        load_network("owner/name")


def test_a_foreign_module_needs_its_arguments(tmp_path):
    torch.manual_seed(0)
    network = Tiny(3, scale=2.0)
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"how this user_networks.Tiny was constructed is not known"):
        save_network(network, tmp_path / "net")
    with pytest.raises(ValueError, match="builds another network than the one to save: 2 tensors differ"):
        save_network(network, tmp_path / "net", init_args={"classes": 4})
    assert not (tmp_path / "net").exists()
    path = save_network(network, tmp_path / "net", init_args={"classes": 3, "scale": 2.0})
    assert torch.equal(load_network(path)(x), network(x))
    edit(path, class_path="user_networks.make_tiny", scale=None)
    assert torch.equal(load_network(path)(x), network(x) / 2)


def test_an_adapter_of_a_foreign_module(tmp_path):
    torch.manual_seed(0)
    adapter = Adapter(Tiny(3), 3, mean=[0.5], std=[0.5], in_channels=1)
    with pytest.raises(ValueError, match="save_network with init_args"):
        save_network(adapter, tmp_path / "net")
    spec = {"class_path": "user_networks.Tiny", "init_args": {"classes": 3}}
    init_args = {"network": spec, "num_classes": 3, "mean": [0.5], "std": [0.5], "in_channels": 1}
    path = save_network(adapter, tmp_path / "net", init_args=init_args)
    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(load_network(path)(x), adapter(x))


def test_a_torchvision_function_is_a_class_path(tmp_path):
    from torchvision.models import shufflenet_v2_x0_5

    network = shufflenet_v2_x0_5(num_classes=3).eval()
    path = save_network(
        network,
        tmp_path / "net",
        class_path="torchvision.models.shufflenet_v2_x0_5",
        init_args={"num_classes": 3},
    )
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(load_network(path)(x), network(x))


def test_what_cannot_be_recorded_is_refused(tmp_path):
    class Local(nn.Linear):
        pass

    with pytest.raises(ValueError, match="cannot be imported by name"):
        save_network(Local(1, 1), tmp_path / "net", init_args={"in_features": 1, "out_features": 1})
    with pytest.raises(ValueError, match="must be JSON-able"):
        save_network(LeNet5Fifth(), tmp_path / "net", notes={"path": tmp_path})
    assert list(tmp_path.iterdir()) == []


def test_push_uploads_the_two_files_privately(lenet, monkeypatch):
    _, path = lenet
    calls = []

    class Api:
        def create_repo(self, repo_id, *, private, exist_ok):
            calls.append((repo_id, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
            calls.append((repo_id, folder_path, sorted(allow_patterns)))
            return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert push_network(path, "owner/name") == "https://hub/commit"
    assert calls == [
        ("owner/name", True, True),
        ("owner/name", path, ["config.json", "model.safetensors"]),
    ]
    (path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        push_network(path, "owner/name")


def test_load_state_reads_a_directory_or_a_file(lenet):
    network, path = lenet
    for source in (path, path / "model.safetensors"):
        state = load_state(source)
        assert state.keys() == network.state_dict().keys()
        assert torch.equal(state["classifier.bias"], network.classifier.bias)


FOREIGN = """
from pathlib import Path
from torch import nn
Path("imported").touch()
class Net(nn.Linear):
    def __init__(self): super().__init__(2, 2)
"""


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A downloaded folder: a network, and the module that it names beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "foreign_code.py").write_text(FOREIGN)
    module = types.ModuleType("foreign_code")
    exec(FOREIGN, module.__dict__)  # what its author has imported
    monkeypatch.setitem(sys.modules, "foreign_code", module)
    save_network(module.Net(), "net", init_args={})
    monkeypatch.delitem(sys.modules, "foreign_code")
    Path("imported").unlink()
    return tmp_path


def test_a_module_beside_a_network_is_imported_only_if_the_user_has_named_it(beside, monkeypatch):
    for source in ("net", beside / "net"):
        with pytest.raises(ValueError, match=r"foreign_code.Net lies in the current folder.*import foreign_code"):
            load_network(source)
    assert not Path("imported").exists()
    monkeypatch.setenv("PYTHONPATH", str(beside))
    assert load_network("net").weight.shape == (2, 2)
    monkeypatch.delitem(sys.modules, "foreign_code")
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(beside / "mine.py"), raising=False)  # a user's script
    assert load_network("net").weight.shape == (2, 2)


def test_a_file_of_an_installed_packages_name_is_not_taken_for_it(beside, monkeypatch):
    Path("colorsys.py").write_text(FOREIGN)  # of the standard library, here not imported yet
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    edit(beside / "net", class_path="colorsys.Net")
    with pytest.raises(ValueError, match=r"colorsys\.Net"):
        load_network("net")
    assert not Path("imported").exists()


def test_what_the_user_has_imported_is_named(beside):
    import foreign_code

    assert isinstance(load_network("net"), foreign_code.Net)


class Fetching(nn.Module):
    """Asks the internet when it is built."""

    def __init__(self, pretrained=False):
        super().__init__()
        self.linear = nn.Linear(1, 1)
        if pretrained:
            with socket.create_server(("127.0.0.1", 0)) as server:
                socket.create_connection(server.getsockname()).close()


def test_loading_fetches_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Fetching, "__module__", "user_networks")
    sys.modules["user_networks"].Fetching = Fetching
    sys.modules["user_networks"].fetch = fetch
    path = save_network(Fetching(), tmp_path / "net", init_args={"pretrained": True})
    assert json.loads((path / "config.json").read_text())["pretrained"] is False
    edit(path, pretrained=True)
    load_network(path)
    edit(path, class_path="user_networks.fetch", pretrained=None)
    with pytest.raises(ValueError, match=r"user_networks\.fetch connects to the internet when it is built, which"):
        load_network(path)
    fetch()  # elsewhere everybody may


def fetch() -> nn.Module:
    return Fetching(pretrained=True)


def test_a_pretrained_network_is_saved_as_it_was_settled(tmp_path, monkeypatch):
    """As from the command line, whose description still says what was fetched, and leaves sizes to the weights."""
    original = torchvision.models.get_model
    fetched = []
    monkeypatch.setattr(
        torchvision.models, "get_model",
        lambda name, weights, **options: (fetched.append(weights), original(name, weights=None, **options))[1],
    )  # fmt: skip
    network = TorchvisionNetwork("mobilenet_v3_small", 1000, weights="IMAGENET1K_V1", input_size=32)
    how = {"name": "mobilenet_v3_small", "num_classes": 1000, "weights": "IMAGENET1K_V1", "input_size": None}
    config = json.loads((save_network(network, tmp_path / "net", init_args=how) / "config.json").read_text())
    assert (config["weights"], config["input_size"], config["mean"]) == (None, 32, [0.485, 0.456, 0.406])
    assert load_network(tmp_path / "net").input_size == 32
    assert [weights for weights in fetched if weights] == ["IMAGENET1K_V1"]


def test_a_network_takes_its_class_names_along(tmp_path):
    path = save_network(LeNet5Fifth(3), tmp_path / "net", class_names=["cat", "dog", "elk"])
    loaded = load_network(path)
    assert loaded.class_names == ["cat", "dog", "elk"]
    again = json.loads((save_network(loaded, tmp_path / "again") / "config.json").read_text())
    assert again["facts"]["class_names"] == ["cat", "dog", "elk"]
    with pytest.raises(ValueError, match=r"expected a name for each of 3 classes, got 2: \['a', 'b'\]"):
        save_network(LeNet5Fifth(3), tmp_path / "net", class_names=["a", "b"])


def test_saving_can_be_tried_before_there_is_anything_to_save():
    with pytest.raises(
        ValueError, match=r"inherit from kdlightning\.networks\.Network, which remembers \(its constructor takes num_c"
    ):
        check_saving(Tiny(3))
    check_saving(Tiny(3), init_args={"classes": 3})
    check_saving(LeNet5Fifth())


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, torch.compile, lambda net: nn.DataParallel(torch.compile(net))],
    ids=["parallel", "compiled", "both"],
)
def test_what_is_wrapped_is_the_network_inside(wrap, tmp_path):
    network = LeNet5Fifth(3)
    wrapped = wrap(network)
    assert (fingerprint(wrapped), name_of(wrapped)) == (fingerprint(network), "LeNet5Fifth")
    loaded = load_network(save_network(wrapped, tmp_path / "net"))
    assert type(loaded) is LeNet5Fifth
    assert fingerprint(loaded) == fingerprint(network)
    again = LeNet5Fifth(3)
    again.load_state_dict(wrapped.state_dict())  # as such a training has saved it
    assert fingerprint(again) == fingerprint(network)
    adapter = Adapter(LeNet5Fifth(3), 3)
    adapter.load_state_dict(wrapped.state_dict())
    assert fingerprint(adapter.network) == fingerprint(network)


def test_a_checkpoint_is_no_state():
    network = LeNet5Fifth(3)
    checkpoint = {"epoch": 3, "model": network.state_dict()}
    for one in (network, Adapter(LeNet5Fifth(3), 3)):
        with pytest.raises(
            ValueError, match=r"got 'epoch', 'model': this is a checkpoint, give what it has under 'mod"
        ):
            one.load_state_dict(checkpoint)
