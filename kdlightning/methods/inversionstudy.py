"""What networks give away of their training images: all inverted alike, and judged by a network that knows the task.

.. [Frank2023] L. Frank, J. Davis. Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
   2023.
.. [Meehan2020] C. Meehan, K. Chaudhuri, S. Dasgupta. A Non-Parametric Test to Detect Data-Copying in Generative
   Models. AISTATS 2020, arXiv:2004.05675.

Access: white box; evaluation, not training. Phases: predict InversionStudy on a NoiseDataModule, whose source has the
networks' training images and held-out ones. Only the comparison reads them.

Differences from Sec. 4.2 of [Frank2023]_ (P):
1. P shows images; here numbers stand beside them: an independent judge's opinion and distances to training images.
2. P chose from over 1,000 settings those of the lowest loss; here all networks have the same, and the loss is reported.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.utils import make_grid

from kdlightning.data.base import ImageDataModule, Options
from kdlightning.data.cached import write_json, write_text
from kdlightning.functional.neighbours import LEVEL, compare
from kdlightning.methods.deepinversion import DeepInversion
from kdlightning.networks.base import penultimate_features
from kdlightning.networks.pretrained import fingerprint
from kdlightning.teachers import WhiteBoxTeacher, as_teacher
from kdlightning.types import Batch


class InversionStudy(DeepInversion):
    """Inverts several networks from the same noise, for the same classes, with the same settings.

    Columns of the transfer set, for every network's name: ``image_<name>`` (uint8), ``own_<name>`` (the class that the
    network itself sees), ``judged_<name>`` (the judge's probabilities), ``loss_<name>``; and ``target``. Beside it:
    ``inversions.json`` with the numbers, ``inversions.md`` with their table, ``inversions.png`` like Fig. 3 of
    [Frank2023]_: a row for every network, a column for every class, the first image that the network itself sees as it.

    The numbers: how many images the judge puts in the class that they were made for, and with what probability; the
    median L2 distance to the nearest training image, in pixels and in the judge's features, and how many images are
    nearer than all but 1 % of held-out images, whose own numbers are the last row.

    Args:
        networks: what to invert, by the names of the rows.
        judge: a network trained on real images, independent of the others: another seed, better another architecture.
        output: directory of the transfer set and of the results.
        options: those of :class:`DeepInversion`, without teacher and student.

    Raises:
        ValueError: no network.
    """

    def __init__(
        self, networks: dict[str, WhiteBoxTeacher], judge: WhiteBoxTeacher, output: str, **options: Options
    ) -> None:
        if not networks:
            raise ValueError("networks: expected at least one network to invert, with a name")
        opened = {name: as_teacher(network, WhiteBoxTeacher) for name, network in networks.items()}
        super().__init__(next(iter(opened.values())), output, **options)
        self.networks, self.judge = nn.ModuleDict(opened), as_teacher(judge, WhiteBoxTeacher)

    def inverted(self) -> list[WhiteBoxTeacher]:
        """All of them."""
        return list(self._named().values())

    def settings(self) -> dict[str, Any]:
        """Adds the weights of networks and judge."""
        given = super().settings()
        prints = {name: fingerprint(network.network) for name, network in self._named().items()}
        return {**given, "networks": prints, "judge": fingerprint(self.judge.network)}

    def setup(self, stage: str) -> None:
        """Refuse, with a ValueError, networks that do not fit, and a source without images to compare with."""
        super().setup(stage)
        source: ImageDataModule = self.trainer.datamodule.source  # type: ignore[attr-defined]
        if not len(source.val_set) or not source.count_candidates():
            raise ValueError(
                f"InversionStudy compares with training and held-out images, but {source.name} lacks them: give the "
                "data set that the networks were trained on as source, with num_val above 0"
            )

    def label(self, batch: Batch, predict: object) -> dict[str, Tensor]:
        """Every network's images, and what it and the judge see in them."""
        target = batch.index % self.num_classes
        rows = {"target": target, "queries": torch.zeros_like(batch.index)}
        for name, network in self._named().items():
            image, rows[f"loss_{name}"] = self.inversion(network, batch)
            pixels = image.float() / 255
            rows |= {f"image_{name}": image, f"own_{name}": network(pixels).argmax(1)}
            rows[f"judged_{name}"] = self.judge(pixels).float().softmax(1)
        return rows

    def facts(self, rows: dict[str, Tensor]) -> dict[str, Any]:
        """Which networks, in the order of the rows."""
        return {"num_classes": self.num_classes, "networks": list(self.networks)}

    def on_predict_end(self) -> None:
        """Once the set is finished, the first process compares and draws."""
        super().on_predict_end()
        if self.finished is not None:
            rows, source = self.finished.columns, self.trainer.datamodule.source  # type: ignore[attr-defined]
            record = self.compared(rows, source)
            write_json(self.output / "inversions.json", record)
            write_text(self.output / "inversions.md", table(record))
            figure = draw({name: _first_of_each(rows, name) for name in self.networks}, source.class_names)
            figure.savefig(self.output / "inversions.png", dpi=200)

    @torch.no_grad()
    def compared(self, rows: Mapping[str, Tensor], source: ImageDataModule) -> dict[str, Any]:
        """What ``inversions.json`` holds, of a finished set's rows and the data set of training and held-out images."""
        local = source.candidate_pool().image
        held_out = source.val_set.__getitems__(list(range(len(source.val_set))))
        truth = self.judge((held_out.image.float() / 255).to(self.device)).float().softmax(1).cpu()
        target = rows["target"]
        results: dict[str, dict[str, Any]] = {}
        for name in self.networks:
            made = rows[f"image_{name}"]
            results[name] = {
                "own": _share(rows[f"own_{name}"] == target),
                **_judged(rows[f"judged_{name}"], target),
                "loss": round(float(rows[f"loss_{name}"].mean()), 4),
                **{space: self._nearness(space, made, local, held_out.image) for space in ("pixels", "features")},
            }
        first = next(iter(results.values()))
        return {
            "schema": 1,
            "dataset": source.name,
            "images": len(target),
            "level": LEVEL,
            "judge": self.judge.identity,
            "settings": self.settings(),
            "networks": results,
            "held_out": {
                "images": len(truth),
                **_judged(truth, torch.as_tensor(held_out.label)),
                **{space: {"median": first[space]["held_out"]} for space in ("pixels", "features") if first[space]},
            },
        }

    def _nearness(self, space: str, made: Tensor, local: Tensor, held_out: Tensor) -> dict[str, float] | None:
        """Distances to the nearest training image; None in features without timm's interface."""
        kinds = [made, local, held_out]
        if space == "pixels":
            points = [images.flatten(1).float().to(self.device) / 255 for images in kinds]
        elif hasattr(self.judge.network, "forward_head"):
            points = [penultimate_features(self.judge.network, images, self.device) for images in kinds]
        else:
            return None
        said = compare(points[0], points[1], points[2])
        median = {"median": said["pool"][50], "least": said["pool"][0], "held_out": said["held_out"][50]}
        return {**median, "near": said["share"], "near_by_chance": said["share_by_chance"], "copies": said["copies"]}

    def _named(self) -> dict[str, WhiteBoxTeacher]:
        modules: Any = self.networks
        return dict(modules.items())


def table(record: Mapping[str, Any]) -> str:
    """What ``inversions.json`` holds as a Markdown table."""
    heads = ["network", "own class %", "judge: target %", "judge: probability", "loss"]
    heads += ["pixels: median distance", "nearer than 99 % of held-out, %", "features: median distance"]
    lines = [heads, ["---"] * len(heads)]
    for name, said in record["networks"].items():
        pixels, features = said["pixels"], said["features"]
        distance = "–" if features is None else f"{features['median']:.2f}"
        cells = [f"{100 * said['own']:.1f}", f"{100 * said['judged']:.1f}", f"{said['probability']:.3f}"]
        cells += [f"{said['loss']:.2f}", f"{pixels['median']:.2f}", f"{100 * pixels['near']:.1f}", distance]
        lines.append([name, *cells])
    real = record["held_out"]
    features = real.get("features")
    cells = ["–", f"{100 * real['judged']:.1f}", f"{real['probability']:.3f}", "–", f"{real['pixels']['median']:.2f}"]
    lines.append(["held-out images", *cells, "–", "–" if features is None else f"{features['median']:.2f}"])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def draw(images: Mapping[str, Tensor], class_names: Sequence[str]) -> Figure:
    """A row for every network's images, uint8 ``(K, C, H, W)``, a column for every of the K class names."""
    count, side = len(class_names), next(iter(images.values())).shape[-1] + 1
    grid = make_grid(torch.cat(list(images.values())).float() / 255, nrow=count, padding=1, pad_value=1.0)
    figure = Figure(figsize=(0.6 * count + 1.5, 0.6 * len(images) + 0.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
    axes.set_xticks([side * (place + 0.5) for place in range(count)], list(class_names))
    axes.set_yticks([side * (place + 0.5) for place in range(len(images))], list(images))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _first_of_each(rows: Mapping[str, Tensor], name: str) -> Tensor:
    """Of every class the first image that the network itself sees as it, or else the first."""
    target, own = rows["target"], rows[f"own_{name}"]
    ranks = ((target == k).int() + ((target == k) & (own == k)).int() for k in target.unique())
    return rows[f"image_{name}"][[int(rank.argmax()) for rank in ranks]]


def _judged(judged: Tensor, target: Tensor) -> dict[str, float]:
    """How many rows are put in their class, and its mean probability."""
    probability = judged.gather(1, target[:, None])
    return {"judged": _share(judged.argmax(1) == target), "probability": round(float(probability.mean()), 4)}


def _share(true: Tensor) -> float:
    return round(float(true.float().mean()), 4)
