"""What a method's teacher is shown of the data: the student's images, or views of its own, where that makes sense."""

from typing import Any

from kdlightning.data.views import Views


def views_of(module: Any, data: Any) -> Views | None:  # noqa: ANN401 - a method and a datamodule
    """The teacher's views of the images of a datamodule that is set up; None where it sees what the student does.

    Raises:
        TypeError: a ``teacher_size`` for a method that asks about pixels of its own, or for images that are made.
    """
    size = getattr(data, "teacher_size", None)
    if size is None or getattr(module, "teacher", None) is None:
        return None
    given, name = f"teacher_size={size} shows the teacher the original of each image", type(module).__name__
    if not module.asks_as_is:
        raise TypeError(
            f"{given}, but {name} asks about pixels that it chooses, makes or changes, which have the student's size "
            "only: leave teacher_size out, or label by TeacherAnswers and train AnsweredKD on its answers"
        )
    views: Views | None = None if getattr(data, "generated", False) else data.train_set.views
    if views is None:
        raise TypeError(f"{given}, but those of {type(data).__name__} are made at image_size: leave teacher_size out")
    return views


def shape_asked(data: Any, views: Views | None) -> tuple[int, int, int]:  # noqa: ANN401 - a datamodule
    """``(C, H, W)`` of an image as the teacher is asked about it; where sizes differ, of a typical one."""
    if views is None:
        return data.channels, data.image_size, data.image_size
    return views.typical(data.train_set.index)
